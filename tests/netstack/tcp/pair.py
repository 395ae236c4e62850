"""Two TCP tables with a network between them, on a virtual clock.

One end is the gateway (`host`), which answers; the other the device, which asks. Both are the code
under test. The network loses, delays, doubles and reorders, by a seeded `random.Random`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

import numpy as np

from lopower.bursts import Rows
from lopower.netstack.checksum import ones_sum, pseudo_header_sum
from lopower.netstack.ip import TCP, parse
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.table import TcpTable

LINK = "device"
HOST_V4 = (bytes((100, 64, 0, 7)), 443)
DEVICE_V4 = (bytes((10, 90, 0, 2)), 50000)
HOST_V6 = (bytes.fromhex("fd7a115ca1e000000000000000000007"), 443)
DEVICE_V6 = (bytes.fromhex("fd0a0000000000000000000000000002"), 50000)


def check_packet(packet: bytes) -> None:
    """Every packet is well-formed, its checksums right, its addresses the flow's."""
    ip = parse(packet)
    assert ip is not None, packet.hex()
    assert ip.protocol == TCP
    segment = packet[ip.header_length : ip.total_length]
    total = pseudo_header_sum(ip.source, ip.destination, TCP, len(segment)) + ones_sum(segment)
    assert total % 65535 == 0, "TCP checksum"


class Wire:
    """A sink that takes packets apart again; bursts stay together for the burst path."""

    def __init__(self, checked: bool = True) -> None:
        self.items: list[bytes | list[bytes]] = []
        self.checked = checked

    def packet(self, link: Hashable, packet: bytes) -> None:
        assert link == LINK
        if self.checked:
            check_packet(packet)
        self.items.append(packet)

    def burst(self, link: Hashable, packets: Rows) -> None:
        assert link == LINK
        rows = [bytes(view) for view in packets.views]
        assert len(rows) == len(packets.matrix)
        assert len(rows[0]) % 16 == 0
        if self.checked:
            for row in rows:
                check_packet(row)
        self.items.append(rows)


@dataclass(frozen=True)
class Conditions:
    """What the network does, in one direction."""

    delay: float = 0.01
    jitter: float = 0.0
    loss: float = 0.0
    duplicate: float = 0.0
    reorder: float = 0.0
    """Share of packets that come `delay` later than they should."""
    rate: float = 0.0
    """Bytes a second; 0 for no bound."""
    queue: int = 0
    """Bytes that wait for the rate; 0 for no bound."""


@dataclass
class Direction:
    """One direction of the network."""

    conditions: Conditions
    random: Random
    free_at: float = 0.0
    lost: int = 0
    carried: int = 0
    drop: Callable[[bytes], bool] | None = None

    def arrivals(self, packet: bytes, now: float) -> list[float]:
        """When `packet` arrives: not at all, once, or twice."""
        c, random = self.conditions, self.random
        if (self.drop is not None and self.drop(packet)) or random.random() < c.loss:
            self.lost += 1
            return []
        if c.rate:
            wait = max(self.free_at - now, 0.0)
            if c.queue and wait * c.rate + len(packet) > c.queue:
                self.lost += 1
                return []
            self.free_at = now + wait + len(packet) / c.rate
            now = self.free_at
        self.carried += 1
        at = now + c.delay + random.random() * c.jitter
        if c.reorder and random.random() < c.reorder:
            at += c.delay
        if c.duplicate and random.random() < c.duplicate:
            return [at, at + c.delay / 2]
        return [at]


@dataclass
class End:
    """A table, what it emits, and what it has received as an application."""

    table: TcpTable
    bursts: bool = True
    wire: Wire = field(default_factory=Wire)

    def receive(self, packets: list[bytes], now: float) -> None:
        """Neighbours of one flow and size as a burst, the rest one by one."""
        at = 0
        while at < len(packets):
            stop = at + 1
            while stop < len(packets) and len(packets[stop]) == len(packets[at]):
                stop += 1
            if not (self.bursts and self._burst(packets[at:stop], now)):
                for packet in packets[at:stop]:
                    self.receive_one(packet, now)
            at = stop

    def receive_one(self, packet: bytes, now: float) -> None:
        ip = parse(packet)
        assert ip is not None
        self.table.receive(LINK, memoryview(packet), ip, now)

    def _burst(self, packets: list[bytes], now: float) -> bool:
        headers = [parse(packet) for packet in packets]
        first = headers[0]
        assert first is not None
        if any(h is None or h.key != first.key for h in headers):
            return False
        if any(h is not None and h.total_length != first.total_length for h in headers):
            return False
        matrix = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)
        return self.table.receive_burst(
            LINK, first.key, matrix, first.header_length, first.total_length, now
        )


class Pair:
    """Both ends, the clock, and the packets on their way."""

    def __init__(
        self,
        forward: Conditions | None = None,
        backward: Conditions | None = None,
        *,
        seed: int = 0,
        host: TcpConfig | None = None,
        device: TcpConfig | None = None,
        bursts: bool = True,
        v6: bool = False,
        checked: bool = True,
        latch: float = 0.0,
    ) -> None:
        random = Random(seed)
        self.now = 1000.0
        self.latch = latch  # what arrives within it is handled in one wake-up
        secret = random.randbytes
        self.host = End(TcpTable(host, random=secret), bursts, Wire(checked))
        self.device = End(TcpTable(device, random=secret), bursts, Wire(checked))
        forward = forward or Conditions()
        self.to_host = Direction(forward, Random(random.random()))
        self.to_device = Direction(backward or forward, Random(random.random()))
        self._queue: list[tuple[float, int, End, bytes]] = []
        self._serial = 0
        self.v6 = v6
        self.accept = True
        self.accepted: list[TcpConnection] = []
        self.on_ready: Callable[[End, TcpConnection], None] | None = None

    def connect(self) -> TcpConnection:
        source, destination = (DEVICE_V6, HOST_V6) if self.v6 else (DEVICE_V4, HOST_V4)
        connection = self.device.table.connect(LINK, source, destination, self.now)
        self.flush()
        return connection

    def establish(self) -> tuple[TcpConnection, TcpConnection]:
        """An established connection: the device's end, the host's end."""
        client = self.connect()
        self.run_until(lambda: client.established and bool(self.accepted))
        server = self.accepted[-1]
        self.run_until(lambda: server.established)
        return client, server

    def flush(self) -> None:
        for end, direction, target in (
            (self.host, self.to_device, self.device),
            (self.device, self.to_host, self.host),
        ):
            end.table.flush(self.now, end.wire)
            items, end.wire.items = end.wire.items, []
            for item in items:
                for packet in item if isinstance(item, list) else [item]:
                    for at in direction.arrivals(packet, self.now):
                        self._serial += 1
                        heappush(self._queue, (at, self._serial, target, packet))

    def next_at(self) -> float | None:
        """When something happens next."""
        times = [self.host.table.deadline(), self.device.table.deadline()]
        if self._queue:
            times.append(self._queue[0][0])
        known = [time for time in times if time is not None]
        return max(min(known), self.now) if known else None

    def step(self, until: float) -> bool:
        """Whatever happens next, and what it leads to; returns whether there was something."""
        at = self.next_at()
        if at is None or at > until:
            return False
        self.now = at
        arrived: dict[int, list[bytes]] = {}
        while self._queue and self._queue[0][0] <= at + self.latch:
            when, _, end, packet = heappop(self._queue)
            self.now = max(self.now, when)
            arrived.setdefault(id(end), []).append(packet)
        for end in (self.host, self.device):
            if id(end) in arrived:
                end.receive(arrived[id(end)], self.now)
            end.table.handle_timer(self.now)
        self.owners()
        self.flush()
        return True

    def owners(self) -> None:
        for request in self.host.table.events():
            if self.accept:
                request.connection.accept(self.now)
                self.accepted.append(request.connection)
        for end in (self.host, self.device):
            for connection in end.table.take_ready():
                if self.on_ready is not None:
                    self.on_ready(end, connection)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self.step(until):
            pass
        self.now = until

    def run_until(self, done: Callable[[], bool], limit: float = 600.0) -> None:
        until = self.now + limit
        while not done():
            assert self.step(until), "stalled"


class Transfer:
    """Sends bytes one way as an application would: as much as there is space for."""

    def __init__(self, pair: Pair, sender: TcpConnection, target: TcpConnection, data: bytes):
        self.pair = pair
        self.sender = sender
        self.target = target
        self.data = memoryview(data)
        self.sent = 0
        self.received = bytearray()
        self.done_at = 0.0

    def pump(self) -> None:
        while self.sent < len(self.data):
            space = self.sender.reserve(len(self.data) - self.sent)
            if not len(space):
                break
            space[:] = self.data[self.sent : self.sent + len(space)]
            self.sender.commit(len(space), self.pair.now)
            self.sent += len(space)
            space.release()
        if self.sent == len(self.data) and not self.sender.closed:
            self.sender.close(self.pair.now)
        while data := self.target.read(65536):
            self.received += data
        if self.target.eof and not self.done_at:
            self.done_at = self.pair.now

    @property
    def done(self) -> bool:
        return self.target.eof


def run_transfers(pair: Pair, transfers: list[Transfer], limit: float = 3600.0) -> None:
    """Until all have arrived; then they are compared."""

    def on_ready(end: End, connection: TcpConnection) -> None:
        for transfer in transfers:
            transfer.pump()

    pair.on_ready = on_ready
    for transfer in transfers:
        transfer.pump()
    pair.flush()
    pair.run_until(lambda: all(t.done for t in transfers), limit)
    for transfer in transfers:
        assert transfer.received == transfer.data
