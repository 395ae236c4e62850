"""`recvmmsg` and `sendmmsg` (Linux) through ctypes: many datagrams in one system call.

The header arrays are numpy records over memory that never moves; a call only resets the fields that
the kernel overwrites (recvmmsg(2), cmsg(3), udp(7)).
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable

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
# Room for UDP_GRO (24 bytes with its padding) and the larger packet information (40).
_CONTROL_SIZE = 64
_GRO_SPACE = 24
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
        self.control: Matrix = np.zeros((slots, _CONTROL_SIZE), np.uint8)
        self.iov = np.zeros(slots, _IOVEC)
        self.headers = np.zeros(slots, _HEADER)
        index = np.arange(slots, dtype=np.uint64)
        self.iov["base"] = self.block.ctypes.data + index * np.uint64(stride)
        self.iov["length"] = stride
        self.headers["name"] = self.names.ctypes.data + index * np.uint64(SOCKADDR_SIZE)
        self.headers["namelen"] = SOCKADDR_SIZE
        self.headers["iov"] = self.iov.ctypes.data + index * np.uint64(_IOVEC.itemsize)
        self.headers["iovlen"] = 1
        self.headers["control"] = self.control.ctypes.data + index * np.uint64(_CONTROL_SIZE)
        self._address = ctypes.c_void_p(self.headers.ctypes.data)

    def _call(self, function: Callable[..., int], fd: int, count: int) -> int:
        # A zero timeout pointer; sendmmsg ignores the fifth argument.
        done = function(fd, self._address, count, _MSG_DONTWAIT, None)
        if done < 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error))
        return done


# A datagram's 64 KB, and some cache lines more: slots that begin at the same place in their pages
# would fight for the same few lines of the processor's first cache.
SLOT_SIZE = 65536 + 17 * 64


class Receiver(_Headers):
    """Takes up to `slots` buffers of up to 64 KB a call, each one datagram or a GRO train."""

    def __init__(self, slots: int) -> None:
        super().__init__(slots, SLOT_SIZE)
        self.headers["controllen"] = _CONTROL_SIZE
        self._namelen = self.headers["namelen"]
        self._controllen = self.headers["controllen"]
        self._length = self.headers["length"]
        self._name_bytes = memoryview(self.names.reshape(-1).data)
        self._control_bytes = memoryview(self.control.reshape(-1).data)
        self._used = 0

    def receive(self, fd: int) -> tuple[list[int], list[int], list[bytes], list[bytes]]:
        """(lengths, GRO segment sizes or 0, raw addresses, packet information) of the slots filled.

        Raises OSError. Packet information is the control message as the kernel wrote it, or empty.
        """
        used = self._used
        self._namelen[:used] = SOCKADDR_SIZE
        self._controllen[:used] = _CONTROL_SIZE
        self._used = count = self._call(_libc.recvmmsg, fd, self.slots)
        lengths: list[int] = self._length[:count].tolist()
        names = bytes(self._name_bytes[: count * SOCKADDR_SIZE])
        addresses = [
            names[at : at + SOCKADDR_SIZE] for at in range(0, count * SOCKADDR_SIZE, SOCKADDR_SIZE)
        ]
        control = bytes(self._control_bytes[: count * _CONTROL_SIZE])
        sizes, information = [], []
        at = 0
        for length in self._controllen[:count].tolist():
            end = at + length
            if length >= _GRO_SPACE and control[at + 12] == UDP_GRO and control[at + 8] == SOL_UDP:
                sizes.append(int.from_bytes(control[at + 16 : at + 18], sys.byteorder))
                information.append(control[at + _GRO_SPACE : end])
            else:
                sizes.append(0)
                information.append(control[at:end])
            at += _CONTROL_SIZE
        return lengths, sizes, addresses, information


class Sender(_Headers):
    """Sends up to `slots` datagrams of up to `stride` bytes a call."""

    def __init__(self, slots: int, stride: int) -> None:
        super().__init__(slots, stride)
        self._view = memoryview(self.block.reshape(-1).data)
        self._names_view = memoryview(self.names.reshape(-1).data)
        self._control_view = memoryview(self.control.reshape(-1).data)
        self._iov_length = self.iov["length"]
        self._namelen = self.headers["namelen"]
        self._controllen = self.headers["controllen"]

    def send(self, fd: int, datagrams: list[tuple[bytes, bytes, bytes]]) -> int:
        """Send (raw address, control message, datagram); how many went; raises OSError.

        At most `slots` of them, each at most `stride` bytes long.
        """
        view, names, stride = self._view, self._names_view, self.stride
        lengths, controls = [], []
        for slot, (address, control, datagram) in enumerate(datagrams):
            size = len(datagram)
            at = slot * stride
            view[at : at + size] = datagram
            at = slot * SOCKADDR_SIZE
            names[at : at + len(address)] = address
            lengths.append(size)
            controls.append(len(control))
            if control:
                at = slot * _CONTROL_SIZE
                self._control_view[at : at + len(control)] = control
        count = len(lengths)
        self._controllen[:count] = controls
        self._iov_length[:count] = lengths
        self._namelen[:count] = len(datagrams[0][0])
        return self._call(_libc.sendmmsg, fd, count)
