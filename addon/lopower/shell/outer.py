"""The outer UDP socket: bursts in, bursts and datagrams out.

Receives with recvmmsg and UDP_GRO, sends with sendmmsg and UDP_SEGMENT, and goes back to one
datagram per call where the kernel refuses (udp(7)).
"""

from __future__ import annotations

import errno
import logging
import socket
import struct
from collections import deque
from collections.abc import Iterable, Iterator

import numpy as np

from lopower.bursts import RowBuffer, Rows
from lopower.endpoint import Endpoint
from lopower.shell import mmsg

log = logging.getLogger(__name__)

# Two full GRO trains of a fast peer, or a train from each of many small devices, per wake-up; more
# makes the answers late, which the congestion control of packet-by-packet clients punishes.
RECEIVE_SLOTS = 16
SEND_SLOTS = 64
SEND_STRIDE = 2048
SOCKET_BUFFER = 7 << 20  # what WireGuard's own userspace implementation asks for
MAX_ENDPOINTS = 4096  # address conversions remembered; each is some 300 bytes
# While the kernel's buffer is full, this much waits; then it is loss, as on any full link.
MAX_BLOCKED = 1 << 20
_GSO_REFUSED = {errno.EIO, errno.EINVAL, errno.EMSGSIZE, errno.EOPNOTSUPP, errno.ENOPROTOOPT}
_V4_MAPPED = bytes(10) + b"\xff\xff"


class OuterSocket:
    """One dual-stack UDP socket (or IPv4 alone where the host has no IPv6)."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = _bind(host, port)
        self.family = self.socket.family
        self.port: int = self.socket.getsockname()[1]
        self.sent = self.send_errors = 0
        self._fd = self.socket.fileno()
        self._endpoints: dict[bytes, Endpoint] = {}
        self._addresses: dict[Endpoint, bytes] = {}
        self._blocked: deque[tuple[Endpoint, bytes, int]] = deque()
        self._blocked_bytes = 0
        self._gso = _accepts(self.socket, mmsg.UDP_SEGMENT, 0)
        self._gro = _accepts(self.socket, mmsg.UDP_GRO, 1)
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
            lengths, sizes, addresses = self._take()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            # ICMP errors of earlier sends are reported here; they name no datagram of ours.
            log.debug("outer socket: %s", error)
            return
        slot, count = 0, len(lengths)
        while slot < count:
            length, size, address = lengths[slot], sizes[slot], addresses[slot]
            source = self._endpoints.get(address) or self._learn(address)
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

    def _take(self) -> tuple[list[int], list[int], list[bytes]]:
        if self._receiver is not None:
            return self._receiver.receive(self._fd)
        length, ancillary, _, name = self.socket.recvmsg_into([self._slots[0].view], 64)
        size = next((int.from_bytes(d[:4], "little") for _, t, d in ancillary if t == 104), 0)
        return [length], [size], [_raw_address(self.family, *name[:2])]

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

    def _learn(self, address: bytes) -> Endpoint:
        if len(self._endpoints) >= MAX_ENDPOINTS:
            self._endpoints.clear()
            self._addresses.clear()
        endpoint = self._endpoints[address] = _endpoint(address)
        self._addresses[endpoint] = address
        return endpoint

    # -- out -----------------------------------------------------------------------------------

    def send_burst(self, endpoint: Endpoint, buffer: memoryview, segment_size: int) -> None:
        """Send `buffer` as datagrams of `segment_size` bytes, in order."""
        if self._blocked:
            self._block_on(endpoint, bytes(buffer), segment_size)
        elif self._gso and len(buffer) > segment_size:
            self._send_segmented(endpoint, buffer, segment_size)
        else:
            self.send_many(
                (endpoint, bytes(buffer[at : at + segment_size]))
                for at in range(0, len(buffer), segment_size)
            )

    def _send_segmented(self, endpoint: Endpoint, buffer: memoryview, size: int) -> None:
        ancillary = [(mmsg.SOL_UDP, mmsg.UDP_SEGMENT, struct.pack("=H", size))]
        try:
            self.socket.sendmsg([buffer], ancillary, 0, self._name(endpoint))
            self.sent += len(buffer)
        except BlockingIOError:
            self._block_on(endpoint, bytes(buffer), size)
        except OSError as error:
            if error.errno in _GSO_REFUSED:
                log.info("this kernel or route refuses UDP segmentation: sending singly")
                self._gso = False
                self.send_burst(endpoint, buffer, size)
            else:
                self.send_errors += 1

    def send_many(self, datagrams: Iterable[tuple[Endpoint, bytes]]) -> None:
        """Send single datagrams, in order."""
        queue = list(datagrams)
        if self._blocked:
            for endpoint, datagram in queue:
                self._block_on(endpoint, datagram, 0)
        elif self._sender is None or len(queue) < 3:
            for endpoint, datagram in queue:
                self._send_one(endpoint, datagram)
        else:
            self._send_batches(queue)

    def _send_batches(self, queue: list[tuple[Endpoint, bytes]]) -> None:
        assert self._sender is not None
        at = 0
        while at < len(queue):
            batch = []
            for endpoint, datagram in queue[at : at + SEND_SLOTS]:
                if len(datagram) > SEND_STRIDE:
                    break
                batch.append((self._address(endpoint), datagram))
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
                self.send_errors += 1
                at += 1

    def _send_one(self, endpoint: Endpoint, datagram: bytes) -> None:
        try:
            self.socket.sendto(datagram, self._name(endpoint))
        except BlockingIOError:
            self._block_on(endpoint, datagram, 0)
        except OSError:
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

    def _name(self, endpoint: Endpoint) -> tuple[str, int]:
        host, port = endpoint
        if self.family == socket.AF_INET6 and ":" not in host:
            host = f"::ffff:{host}"
        return host, port

    def _address(self, endpoint: Endpoint) -> bytes:
        address = self._addresses.get(endpoint)
        if address is None:
            address = _raw_address(self.family, *endpoint)
            self._learn(address)
            self._addresses[endpoint] = address
        return address


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
