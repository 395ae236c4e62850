"""All connections of all devices: lookup, backlog, TIME-WAIT, resets, timers, flush."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable
from heapq import heapify, heappop, heappush
from math import inf
from typing import NamedTuple

from lopower.bursts import Matrix
from lopower.netstack.events import IcmpError
from lopower.netstack.icmp import TokenBucket
from lopower.netstack.ip import IpHeader
from lopower.netstack.tcp.burst import BurstWriter, Sink
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.isn import SequenceGenerator
from lopower.netstack.tcp.sendbuffer import BufferPool
from lopower.netstack.tcp.sequence import MASK, unwrap
from lopower.netstack.tcp.state import PENDING, SYN_SENT, TcpError
from lopower.netstack.tcp.wire import ACK, FIN, RST, SYN, Segment, make_path, parse_segment

SMALLEST_BURST = 3  # below this the per-packet path is as fast
EPHEMERAL = (49152, 65535)  # RFC 6335
PORT_TRIES = 64
MAX_STRAY = 256  # packets of no connection that wait for a flush
AHEAD_OF_OLD = 0x10000  # a reused TIME-WAIT starts past the old window (Linux: 65535 + 2)


class TcpRequest(NamedTuple):
    """A device wants to connect to `connection.local`: `accept`, `refuse` or `ignore` it."""

    connection: TcpConnection


class TimeWait(NamedTuple):
    """What is left of a connection for a minute."""

    expires_at: float
    send_next: int
    receive_next: int


FlowKey = tuple[Hashable, bytes]


class TcpTable:
    """TCP for all devices, without input or output of its own."""

    def __init__(
        self, config: TcpConfig | None = None, *, random: Callable[[int], bytes] = os.urandom
    ) -> None:
        self.config = config or TcpConfig()
        self.pool = BufferPool(self.config.buffer_pool)
        self.writer = BurstWriter(self.config)
        self._random = random
        self._sequences = SequenceGenerator(random(32))
        self._connections: dict[FlowKey, TcpConnection] = {}
        self._time_wait: dict[FlowKey, TimeWait] = {}
        self._backlog: dict[Hashable, int] = {}
        self._backlog_total = 0
        self._requests: list[TcpRequest] = []
        self._ready: list[TcpConnection] = []
        self._output: list[TcpConnection] = []
        self._stray: list[tuple[Hashable, bytes]] = []
        self._timers: list[tuple[float, int, TcpConnection]] = []
        self._serial = 0
        self._resets = TokenBucket(self.config.resets_per_second, self.config.reset_burst)
        self._challenges = TokenBucket(
            self.config.challenges_per_second, self.config.challenges_per_second
        )

    def __len__(self) -> int:
        return len(self._connections)

    # Input

    def receive(self, link: Hashable, packet: memoryview, ip: IpHeader, now: float) -> None:
        """A TCP packet from a device."""
        segment = parse_segment(packet, ip.header_length, ip.total_length)
        if segment is None:
            return
        connection = self._connections.get((link, ip.key))
        if connection is not None:
            connection.receive(segment, now)
        else:
            self._receive_unknown(link, ip.key, segment, now)

    def receive_burst(
        self,
        link: Hashable,
        key: bytes,
        packets: Matrix,
        header_length: int,
        packet_length: int,
        now: float,
    ) -> bool:
        """Equal-size packets of one flow in one step; `False`: nothing was consumed."""
        if len(packets) < SMALLEST_BURST:
            return False
        connection = self._connections.get((link, key))
        if connection is None:
            return False
        return connection.receive_burst(packets, header_length, packet_length, now)

    def icmp_error(self, key: bytes, error: IcmpError) -> None:
        """An ICMP error about a segment of the flow `key`."""
        connection = self._connections.get((error.link, key))
        if connection is not None:
            connection.icmp_error(error.kind, error.sequence, error.mtu)

    def _receive_unknown(self, link: Hashable, key: bytes, segment: Segment, now: float) -> None:
        old = self._time_wait.get((link, key))
        initial: int | None = None
        if old is not None:
            if not self._reopens(old, segment):
                self._receive_time_wait(link, key, old, segment, now)
                return
            del self._time_wait[link, key]
            initial = old.send_next + AHEAD_OF_OLD & MASK
        if segment.flags & (SYN | ACK | RST | FIN) == SYN:
            self._request(link, key, segment, initial, now)
        else:
            self._reset(link, key, segment, now)

    def _request(
        self, link: Hashable, key: bytes, segment: Segment, initial: int | None, now: float
    ) -> None:
        """A SYN; when the backlog is full it is dropped, and will come again."""
        config = self.config
        waiting = self._backlog.get(link, 0)
        if (
            waiting >= config.max_requests_per_link
            or self._backlog_total >= config.max_requests
            or len(self._connections) >= config.max_connections
        ):
            return
        if initial is None:
            initial = self._sequences.initial(key, now)
        connection = TcpConnection(self, link, key, initial, PENDING)
        self._connections[link, key] = connection
        connection.in_backlog = True
        self._backlog[link] = waiting + 1
        self._backlog_total += 1
        connection.request(segment, now)
        self._requests.append(TcpRequest(connection))

    def _reset(self, link: Hashable, key: bytes, segment: Segment, now: float) -> None:
        """RFC 9293, 3.5.2 group 1: a segment of no connection, unless it is a RST itself."""
        flags = segment.flags
        if flags & RST or not self._resets.take(now):
            return
        path = make_path(key)
        if flags & ACK:
            packet = path.build(segment.acknowledgment, 0, RST, 0)
        else:
            length = len(segment.payload) + (flags & SYN != 0) + (flags & FIN)
            packet = path.build(0, segment.sequence + length, RST | ACK, 0)
        self.send(link, packet)

    # TIME-WAIT

    def _reopens(self, old: TimeWait, segment: Segment) -> bool:
        """A SYN beyond what the old connection had received (RFC 9293, 3.6.1)."""
        if segment.flags & (SYN | ACK | RST | FIN) != SYN:
            return False
        return unwrap(segment.sequence, old.receive_next) > old.receive_next

    def _receive_time_wait(
        self, link: Hashable, key: bytes, old: TimeWait, segment: Segment, now: float
    ) -> None:
        """Acknowledge again; a RST ends it only if it is exact (RFC 1337, RFC 5961)."""
        flags = segment.flags
        if flags & RST:
            if segment.sequence == old.receive_next & MASK:
                del self._time_wait[link, key]
            return
        bare = not len(segment.payload) and not flags & (SYN | FIN)
        if bare and segment.sequence == old.receive_next & MASK:
            return  # the last ACK of a peer that closed at the same time
        if flags & FIN:
            self._remember(link, key, old.send_next, old.receive_next, now)
        if self.may_challenge(now):
            packet = make_path(key).build(old.send_next, old.receive_next, ACK, 0)
            self.send(link, packet)

    def _remember(
        self, link: Hashable, key: bytes, send_next: int, receive_next: int, now: float
    ) -> None:
        """Insertion order is order of expiry: all stay for the same time."""
        records = self._time_wait
        records.pop((link, key), None)
        if len(records) >= self.config.max_time_wait:
            del records[next(iter(records))]
        expires_at = now + self.config.time_wait
        records[link, key] = TimeWait(expires_at, send_next, receive_next)

    # Active open

    def connect(
        self, link: Hashable, source: tuple[bytes, int], destination: tuple[bytes, int], now: float
    ) -> TcpConnection:
        """Open a connection to a device as `source`; port 0: any that is free.

        Raises `OSError` when the flow exists or there is no port left.
        """
        key = self._free_key(link, source, destination)
        old = self._time_wait.pop((link, key), None)
        initial = self._sequences.initial(key, now)
        if old is not None:
            initial = old.send_next + AHEAD_OF_OLD & MASK
        connection = TcpConnection(self, link, key, initial, SYN_SENT)
        self._connections[link, key] = connection
        connection.start(now)
        return connection

    def _free_key(
        self, link: Hashable, source: tuple[bytes, int], destination: tuple[bytes, int]
    ) -> bytes:
        if len(self._connections) >= self.config.max_connections:
            raise OSError("too many connections")
        low, high = EPHEMERAL
        for _ in range(PORT_TRIES):
            # RFC 6056: not to be guessed.
            port = source[1] or low + int.from_bytes(self._random(4)) % (high - low + 1)
            ports = destination[1].to_bytes(2) + port.to_bytes(2)
            key = destination[0] + source[0] + ports
            if (link, key) not in self._connections:
                return key
            if source[1]:
                break
        raise OSError("address already in use")

    # What the stack collects

    def events(self) -> list[TcpRequest]:
        """Requests since the last call."""
        requests, self._requests = self._requests, []
        return requests

    def take_ready(self) -> list[TcpConnection]:
        """Connections with news since the last call: readable, writable, established, closed."""
        ready, self._ready = self._ready, []
        for connection in ready:
            connection.notified = False
        return ready

    def drop_link(self, link: Hashable) -> None:
        """A device is gone: its connections end, without a packet."""
        for (owner, _), connection in list(self._connections.items()):
            if owner == link:
                connection.drop(TcpError.LINK_DOWN)
        for flow in [flow for flow in self._time_wait if flow[0] == link]:
            del self._time_wait[flow]
        self._stray = [item for item in self._stray if item[0] != link]

    def flush(self, now: float, sink: Sink) -> None:
        """Emit everything that is due."""
        if self._stray:
            stray, self._stray = self._stray, []
            for link, packet in stray:
                sink.packet(link, packet)
        while self._output:
            output, self._output = self._output, []
            for connection in output:
                connection.awake = False
                connection.flush(now, sink)

    # Timers

    def deadline(self) -> float | None:
        """When `handle_timer` is wanted."""
        timers = self._timers
        while timers and timers[0][2].scheduled != timers[0][0]:
            heappop(timers)
        deadline = timers[0][0] if timers else inf
        for record in self._time_wait.values():
            deadline = min(deadline, record.expires_at)
            break
        return None if deadline == inf else deadline

    def handle_timer(self, now: float) -> None:
        """Everything that is due by `now`; a flush should follow."""
        timers = self._timers
        while timers and timers[0][0] <= now:
            at, _, connection = heappop(timers)
            if connection.scheduled == at:
                connection.scheduled = inf
                connection.on_timer(now)
        self._expire_time_wait(now)

    def _expire_time_wait(self, now: float) -> None:
        records = self._time_wait
        while records:
            flow = next(iter(records))
            if records[flow].expires_at > now:
                return
            del records[flow]

    # What connections ask for (connection.Host)

    def wake(self, connection: TcpConnection) -> None:
        if not connection.awake:
            connection.awake = True
            self._output.append(connection)

    def notify(self, connection: TcpConnection) -> None:
        if not connection.notified:
            connection.notified = True
            self._ready.append(connection)

    def schedule(self, connection: TcpConnection, deadline: float) -> None:
        """Entries are not removed: one that is not `connection.scheduled` is stale."""
        connection.scheduled = deadline
        self._serial += 1
        timers = self._timers
        if len(timers) > 4 * len(self._connections) + 256:
            timers[:] = [entry for entry in timers if entry[2].scheduled == entry[0]]
            heapify(timers)
        heappush(timers, (deadline, self._serial, connection))

    def established(self, connection: TcpConnection) -> None:
        if connection.in_backlog:
            connection.in_backlog = False
            self._backlog_total -= 1
            waiting = self._backlog[connection.link] - 1
            if waiting:
                self._backlog[connection.link] = waiting
            else:
                del self._backlog[connection.link]

    def forget(self, connection: TcpConnection) -> None:
        self.established(connection)
        connection.scheduled = inf
        flow = (connection.link, connection.key)
        if self._connections.get(flow) is connection:
            del self._connections[flow]

    def linger(self, connection: TcpConnection, now: float) -> None:
        self.forget(connection)
        send_next, receive_next = connection.sender.nxt, connection.receiver.nxt
        self._remember(connection.link, connection.key, send_next, receive_next, now)
        self.wake(connection)

    def send(self, link: Hashable, packet: bytes) -> None:
        if len(self._stray) < MAX_STRAY:
            self._stray.append((link, packet))

    def may_challenge(self, now: float) -> bool:
        return self._challenges.take(now)
