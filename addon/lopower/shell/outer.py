"""The outer UDP socket: bursts in, bursts and datagrams out.

Receives with recvmmsg and UDP_GRO, sends with sendmmsg and UDP_SEGMENT, and goes back to one
datagram per call where the kernel refuses (udp(7)).
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from lopower.bursts import RowBuffer, Rows
from lopower.endpoint import Endpoint
from lopower.shell import mmsg

log = logging.getLogger(__name__)

# As many trains or datagrams as one wake-up takes: a client that sends packet by packet fills them
# all, and what a wake-up costs is shared by all of them.
RECEIVE_SLOTS = 64
SEND_SLOTS = 64
SEND_STRIDE = 2048
MAX_TRAIN = 65_000  # bytes in one segmented send: a UDP datagram's bound, less the headers
MAX_SEGMENTS = 64  # what UDP_SEGMENT splits at most, on every kernel
SOCKET_BUFFER = 7 << 20  # what WireGuard's own userspace implementation asks for
MAX_ENDPOINTS = 4096  # address conversions remembered; each is some 300 bytes
# While the kernel's buffer is full, this much waits; then it is loss, as on any full link.
MAX_BLOCKED = 1 << 20
_GSO_REFUSED = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT}
_SOURCE_REFUSED = {errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETUNREACH, errno.ENODEV}
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_V4_MAPPED = bytes(10) + b"\xff\xff"


class _Path:
    """How to reach an endpoint: its raw address, and from which of our own.

    An answer must come from the address that was asked, or no NAT lets it through.
    """

    __slots__ = ("ancillary", "control", "endpoint", "name", "raw")

    def __init__(self, family: int, endpoint: Endpoint, raw: bytes, information: bytes) -> None:
        self.endpoint = endpoint
        self.raw = raw
        host, port = endpoint
        mapped = family == socket.AF_INET6 and ":" not in host
        self.name = (f"::ffff:{host}" if mapped else host, port)
        self.control = b""
        self.ancillary: list[tuple[int, int, bytes]] = []
        if information:
            self.ancillary = [_from(family, information)]
            self.control = _control_message(*self.ancillary[0])

    def forget_source(self) -> None:
        """The address that was asked is not ours any more."""
        self.control, self.ancillary = b"", []


class OuterSocket:
    """One dual-stack UDP socket (or IPv4 alone where the host has no IPv6)."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = _bind(host, port)
        self.family = self.socket.family
        self.port: int = self.socket.getsockname()[1]
        self.send_errors = 0
        self._fd = self.socket.fileno()
        self._sources: dict[bytes, _Path] = {}
        self._paths: dict[Endpoint, _Path] = {}
        self._blocked: deque[tuple[Endpoint, bytes, int]] = deque()
        self._blocked_bytes = 0
        self._gso = _accepts(self.socket, mmsg.UDP_SEGMENT, 0)
        _accepts(self.socket, mmsg.UDP_GRO, 1)
        self._receiver = mmsg.Receiver(RECEIVE_SLOTS) if mmsg.available else None
        self._sender = mmsg.Sender(SEND_SLOTS, SEND_STRIDE) if mmsg.available else None
        block = self._receiver.block if self._receiver else np.zeros((1, 65536), np.uint8)
        self._block = block
        self._slots = [RowBuffer(len(row), row) for row in block]
        self._lone: dict[int, list[memoryview]] = {}

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        self.socket.close()

    @property
    def buffer_size(self) -> int:
        """The receive buffer that the kernel granted, in bytes (it counts double)."""
        return self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // 2

    # -- in ------------------------------------------------------------------------------------

    def receive(self) -> Iterator[tuple[Rows, Endpoint]]:
        """What one system call brings, as bursts valid until the next call; nothing when empty."""
        try:
            lengths, sizes, addresses, information = self._take()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # ICMP errors of earlier sends are reported here; they name no datagram of ours.
            log.debug("outer socket: %s", error)
            return
        slot, count = 0, len(lengths)
        while slot < count:
            length, size, address = lengths[slot], sizes[slot], addresses[slot]
            source = self._source(address, information[slot])
            end = slot + 1
            if 0 < size < length:
                full, rest = divmod(length, size)
                yield self._slots[slot].rows(full, size), source
                if rest:
                    yield self._tail(slot, full * size, rest), source
            elif length:
                while (
                    end < count
                    and lengths[end] == length
                    and addresses[end] == address
                    and not 0 < sizes[end] < length
                ):
                    end += 1
                yield self._run(slot, end, length), source
            slot = end

    def _take(self) -> tuple[list[int], list[int], list[bytes], list[bytes]]:
        if self._receiver is not None:
            return self._receiver.receive(self._fd)
        length, ancillary, _, name = self.socket.recvmsg_into([self._slots[0].view], 128)
        size, information = 0, b""
        for level, kind, data in ancillary:
            if (level, kind) == (mmsg.SOL_UDP, mmsg.UDP_GRO):
                size = int.from_bytes(data[:2], sys.byteorder)
            else:
                information = _control_message(level, kind, data)
        return [length], [size], [_raw_address(self.family, *name[:2])], [information]

    def _run(self, slot: int, end: int, size: int) -> Rows:
        """The datagrams of adjacent slots as strided rows."""
        views = self._lone.get(size)
        if views is None:
            if len(self._lone) >= 16:
                del self._lone[next(iter(self._lone))]
            views = self._lone[size] = [s.view[:size] for s in self._slots]
        return Rows(self._block[slot:end, :size], views[slot:end])

    def _tail(self, slot: int, start: int, size: int) -> Rows:
        matrix = self._block[slot : slot + 1, start : start + size]
        return Rows(matrix, [self._slots[slot].view[start : start + size]])

    def _source(self, address: bytes, information: bytes) -> Endpoint:
        key = address + information
        path = self._sources.get(key)
        if path is None:
            if len(self._sources) >= MAX_ENDPOINTS:
                self._sources.clear()
                self._paths.clear()
            path = _Path(self.family, _endpoint(address), address, information)
            self._sources[key] = path
        self._paths[path.endpoint] = path
        return path.endpoint

    def _path(self, endpoint: Endpoint) -> _Path:
        path = self._paths.get(endpoint)
        if path is None:
            raw = _raw_address(self.family, *endpoint)
            path = self._paths[endpoint] = _Path(self.family, endpoint, raw, b"")
        return path

    # -- out -----------------------------------------------------------------------------------

    def send_burst(self, endpoint: Endpoint, buffer: memoryview, segment_size: int) -> None:
        """Send `buffer` as datagrams of `segment_size` bytes, in order."""
        if self._blocked:
            self._block_on(endpoint, bytes(buffer), segment_size)
        elif self._gso and len(buffer) > segment_size:
            self._send_segmented(endpoint, [buffer], segment_size)
        else:
            self.send_many(
                (endpoint, bytes(buffer[at : at + segment_size]))
                for at in range(0, len(buffer), segment_size)
            )

    def _send_segmented(
        self, endpoint: Endpoint, buffers: Sequence[bytes | memoryview], size: int
    ) -> None:
        path = self._path(endpoint)
        segments = (mmsg.SOL_UDP, mmsg.UDP_SEGMENT, struct.pack("=H", size))
        try:
            self.socket.sendmsg(buffers, [*path.ancillary, segments], 0, path.name)
        except BlockingIOError:
            self._block_on(endpoint, b"".join(buffers), size)
        except OSError as error:
            if path.ancillary and error.errno in _SOURCE_REFUSED:
                path.forget_source()
                self._send_segmented(endpoint, buffers, size)
            elif error.errno in _GSO_REFUSED:
                log.info("this kernel or route refuses UDP segmentation: sending singly")
                self._gso = False
                self.send_burst(endpoint, memoryview(b"".join(buffers)), size)
            else:
                self.send_errors += 1

    def send_many(self, datagrams: Iterable[tuple[Endpoint, bytes]]) -> None:
        """Send single datagrams, in order."""
        queue = list(datagrams)
        if self._blocked:
            for endpoint, datagram in queue:
                self._block_on(endpoint, datagram, 0)
        elif self._gso and len(queue) > 1:
            self._send_trains(queue)
        else:
            self._send_singly(queue)

    def _send_trains(self, queue: list[tuple[Endpoint, bytes]]) -> None:
        """Neighbours of one size for one endpoint pass the kernel as one."""
        at, count, single = 0, len(queue), 0
        while at < count:
            endpoint, first = queue[at]
            size = len(first)
            stop = min(count, at + MAX_SEGMENTS, at + MAX_TRAIN // size)
            end = at + 1
            while end < stop and len(queue[end][1]) == size and queue[end][0] is endpoint:
                end += 1
            if end - at > 1:
                self._send_singly(queue[single:at])
                train = [datagram for _, datagram in queue[at:end]]
                self._send_segmented(endpoint, train, size)
                single = end
            at = end
        self._send_singly(queue[single:])

    def _send_singly(self, queue: list[tuple[Endpoint, bytes]]) -> None:
        if self._sender is not None and len(queue) > 2 and not self._blocked:
            self._send_batches(queue)
            return
        for endpoint, datagram in queue:
            self._send_one(endpoint, datagram)

    def _send_batches(self, queue: list[tuple[Endpoint, bytes]]) -> None:
        assert self._sender is not None
        at = 0
        while at < len(queue):
            batch = []
            for endpoint, datagram in queue[at : at + SEND_SLOTS]:
                if len(datagram) > SEND_STRIDE:
                    break
                path = self._path(endpoint)
                batch.append((path.raw, path.control, datagram))
            try:
                if batch:
                    at += self._sender.send(self._fd, batch)
                else:
                    self._send_one(*queue[at])
                    at += 1
            except BlockingIOError:
                for endpoint, datagram in queue[at:]:
                    self._block_on(endpoint, datagram, 0)
                return
            except OSError:
                # The first datagram of the batch is at fault: an unreachable address, say.
                self._send_one(*queue[at])
                at += 1

    def _send_one(self, endpoint: Endpoint, datagram: bytes) -> None:
        if self._blocked:
            self._block_on(endpoint, datagram, 0)
            return
        path = self._path(endpoint)
        try:
            self.socket.sendmsg([datagram], path.ancillary, 0, path.name)
        except BlockingIOError:
            self._block_on(endpoint, datagram, 0)
        except OSError as error:
            if path.ancillary and error.errno in _SOURCE_REFUSED:
                path.forget_source()
                self._send_one(endpoint, datagram)
            else:
                self.send_errors += 1

    @property
    def blocked(self) -> bool:
        """Datagrams wait for room in the kernel: call `unblock` when the socket is writable."""
        return bool(self._blocked)

    def unblock(self) -> None:
        """Send what waited."""
        waiting, self._blocked = self._blocked, deque()
        self._blocked_bytes = 0
        for endpoint, buffer, size in waiting:
            if size:
                self.send_burst(endpoint, memoryview(buffer), size)
            else:
                self.send_many([(endpoint, buffer)])

    def _block_on(self, endpoint: Endpoint, buffer: bytes, size: int) -> None:
        if self._blocked_bytes + len(buffer) > MAX_BLOCKED:
            self.send_errors += 1
            return
        self._blocked.append((endpoint, buffer, size))
        self._blocked_bytes += len(buffer)


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET if host and ":" not in host else socket.AF_INET6
    try:
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    except OSError:
        family, host = socket.AF_INET, host if ":" not in host else ""
        udp = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            udp.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            _grow(udp, option)
        if not host:
            _ask_destination(udp)
        udp.bind((host, port))
    except OSError:
        udp.close()
        raise
    return udp


def _grow(udp: socket.socket, option: int) -> None:
    force = {socket.SO_RCVBUF: 33, socket.SO_SNDBUF: 32}[option]  # SO_RCVBUFFORCE, SO_SNDBUFFORCE
    for name in (force, option):
        try:
            udp.setsockopt(socket.SOL_SOCKET, name, SOCKET_BUFFER)
        except OSError:
            continue
        return


def _ask_destination(udp: socket.socket) -> None:
    """Have the kernel tell which of the host's addresses each datagram was sent to."""
    if sys.platform == "linux" and udp.family == socket.AF_INET6:
        udp.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO, 1)
    elif sys.platform == "linux":
        udp.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def _from(family: int, information: bytes) -> tuple[int, int, bytes]:
    """What to send with, so that an answer comes from where a datagram went."""
    if family == socket.AF_INET6:
        return socket.IPPROTO_IPV6, _IPV6_PKTINFO, information[16:32] + bytes(4)
    address = information[24:28]  # ipi_addr of struct in_pktinfo goes out as ipi_spec_dst
    return socket.IPPROTO_IP, _IP_PKTINFO, bytes(4) + address + bytes(4)


def _control_message(level: int, kind: int, data: bytes) -> bytes:
    """One struct cmsghdr and its data, padded as the kernel does (cmsg(3))."""
    header = struct.pack("=Qii", 16 + len(data), level, kind)
    return header + data + bytes(-len(data) % 8)


def _accepts(udp: socket.socket, option: int, value: int) -> bool:
    try:
        udp.setsockopt(mmsg.SOL_UDP, option, value)
    except OSError:
        return False
    return True


def _endpoint(address: bytes) -> Endpoint:
    """The endpoint of a raw sockaddr_in or sockaddr_in6."""
    port = int.from_bytes(address[2:4])
    if int.from_bytes(address[:2], "little") == socket.AF_INET:
        return Endpoint(socket.inet_ntoa(address[4:8]), port)
    host = address[8:24]
    if host.startswith(_V4_MAPPED):
        return Endpoint(socket.inet_ntoa(host[12:]), port)
    scope = int.from_bytes(address[24:28], "little")
    text = socket.inet_ntop(socket.AF_INET6, host)
    return Endpoint(f"{text}%{scope}" if scope else text, port)


def _raw_address(family: int, host: str, port: int) -> bytes:
    """The raw sockaddr that the kernel takes for `host` on a socket of `family`."""
    head = family.to_bytes(2, "little") + port.to_bytes(2)
    if family == socket.AF_INET:
        return head + socket.inet_aton(host) + bytes(8)
    host, _, scope = host.partition("%")
    packed = (
        socket.inet_pton(socket.AF_INET6, host)
        if ":" in host
        else _V4_MAPPED + socket.inet_aton(host)
    )
    return head + bytes(4) + packed + int(scope or 0).to_bytes(4, "little")
