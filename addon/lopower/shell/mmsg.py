"""`recvmmsg` and `sendmmsg` (Linux) through ctypes: many datagrams in one system call.

The header arrays are numpy records over memory that never moves; a call only resets the fields that
the kernel overwrites (recvmmsg(2), cmsg(3), udp(7)).
"""

from __future__ import annotations

import ctypes
import os
import sys

import numpy as np

from lopower.bursts import Matrix

SOL_UDP = 17
UDP_SEGMENT = 103
UDP_GRO = 104
_MSG_DONTWAIT = 0x40

# struct mmsghdr of every 64-bit Linux ABI; the padding of glibc and musl is the same.
_HEADER = np.dtype(
    [
        ("name", "u8"), ("namelen", "u4"), ("_1", "u4"),
        ("iov", "u8"), ("iovlen", "u8"),
        ("control", "u8"), ("controllen", "u8"),
        ("flags", "i4"), ("_2", "u4"),
        ("length", "u4"), ("_3", "u4"),
    ]
)  # fmt: skip
_IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
_CONTROL = np.dtype(
    [("length", "u8"), ("level", "i4"), ("type", "i4"), ("value", "i4"), ("_", "i4")]
)
SOCKADDR_SIZE = 28  # struct sockaddr_in6

available = sys.platform == "linux" and ctypes.sizeof(ctypes.c_void_p) == 8
if available:
    _libc = ctypes.CDLL(None, use_errno=True)
    available = hasattr(_libc, "recvmmsg") and hasattr(_libc, "sendmmsg")


class _Headers:
    """`slots` message headers, each with one buffer, one address and one control message."""

    def __init__(self, slots: int, stride: int) -> None:
        self.slots = slots
        self.stride = stride
        self.block: Matrix = np.zeros((slots, stride), np.uint8)
        self.names: Matrix = np.zeros((slots, SOCKADDR_SIZE), np.uint8)
        self.control = np.zeros(slots, _CONTROL)
        self.iov = np.zeros(slots, _IOVEC)
        self.headers = np.zeros(slots, _HEADER)
        index = np.arange(slots, dtype=np.uint64)
        self.iov["base"] = self.block.ctypes.data + index * np.uint64(stride)
        self.iov["length"] = stride
        self.headers["name"] = self.names.ctypes.data + index * np.uint64(SOCKADDR_SIZE)
        self.headers["namelen"] = SOCKADDR_SIZE
        self.headers["iov"] = self.iov.ctypes.data + index * np.uint64(_IOVEC.itemsize)
        self.headers["iovlen"] = 1
        self._address = self.headers.ctypes.data

    def _call(self, function: str, fd: int, count: int) -> int:
        # A zero timeout pointer; sendmmsg ignores the fifth argument.
        done: int = getattr(_libc, function)(
            fd, ctypes.c_void_p(self._address), count, _MSG_DONTWAIT, None
        )
        if done < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return done


class Receiver(_Headers):
    """Takes up to `slots` buffers of up to 64 KB a call, each one datagram or a GRO train."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots, 65536)
        self.headers["control"] = self.control.ctypes.data + np.arange(
            slots, dtype=np.uint64
        ) * np.uint64(_CONTROL.itemsize)
        self.headers["controllen"] = _CONTROL.itemsize
        self._namelen = self.headers["namelen"]
        self._controllen = self.headers["controllen"]
        self._length = self.headers["length"]
        self._cmsg_type = self.control["type"]
        self._cmsg_value = self.control["value"]
        self._name_bytes = memoryview(self.names.reshape(-1).data)
        self._used = 0

    def receive(self, fd: int) -> tuple[list[int], list[int], list[bytes]]:
        """(lengths, GRO segment sizes or 0, raw addresses) of the slots filled; raises OSError."""
        used = self._used
        self._namelen[:used] = SOCKADDR_SIZE
        self._controllen[:used] = _CONTROL.itemsize
        self._used = count = self._call("recvmmsg", fd, self.slots)
        lengths: list[int] = self._length[:count].tolist()
        sizes: list[int] = self._cmsg_value[:count].tolist()
        for slot, controllen in enumerate(self._controllen[:count].tolist()):
            if controllen < 20:  # no control message: a lone datagram
                sizes[slot] = 0
        names = bytes(self._name_bytes[: count * SOCKADDR_SIZE])
        addresses = [
            names[at : at + SOCKADDR_SIZE] for at in range(0, count * SOCKADDR_SIZE, SOCKADDR_SIZE)
        ]
        return lengths, sizes, addresses


class Sender(_Headers):
    """Sends up to `slots` datagrams of up to `stride` bytes a call."""

    def __init__(self, slots: int, stride: int) -> None:
        super().__init__(slots, stride)
        self._view = memoryview(self.block.reshape(-1).data)
        self._names_view = memoryview(self.names.reshape(-1).data)
        self._iov_length = self.iov["length"]
        self._namelen = self.headers["namelen"]

    def send(self, fd: int, datagrams: list[tuple[bytes, bytes]]) -> int:
        """Send (raw address, datagram) pairs, at most `slots`; how many went; raises OSError."""
        view, names, stride = self._view, self._names_view, self.stride
        lengths = []
        for slot, (address, datagram) in enumerate(datagrams):
            size = len(datagram)
            at = slot * stride
            view[at : at + size] = datagram
            at = slot * SOCKADDR_SIZE
            names[at : at + len(address)] = address
            lengths.append(size)
        count = len(lengths)
        self._iov_length[:count] = lengths
        self._namelen[:count] = len(datagrams[0][0])
        return self._call("sendmmsg", fd, count)
