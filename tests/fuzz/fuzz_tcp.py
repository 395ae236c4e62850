"""Arbitrary segments, calls and times into TCP; what comes out must be packets, and end.

`one_input` is what a fuzzer calls; it raises when a promise is broken. The first bytes of the input
choose, step by step, what happens: a segment near the window or anywhere, a burst, the proxy's
calls, the clock.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from lopower.bursts import Rows
from lopower.netstack import ip
from lopower.netstack.checksum import ones_sum, pseudo_header_sum
from lopower.netstack.events import IcmpError, IcmpErrorKind
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.table import TcpTable
from lopower.netstack.tcp.wire import make_path, reverse

LINK = "device"
ADDRESSES = bytes([10, 90, 0, 2, 100, 64, 0, 7])
KEY = ADDRESSES + bytes([200, 1, 1, 187])
OTHER_KEY = ADDRESSES + bytes([200, 2, 1, 187])
PATH = make_path(reverse(KEY))
OTHER_PATH = make_path(reverse(OTHER_KEY))
OPTIONS = (b"", b"\x02\x04\x05\xa0\x01\x01\x04\x02\x01\x03\x03\x07", b"\x02\x04\x05\xa0")
CONFIG = TcpConfig(max_out_of_order=16, max_runs=32, user_timeout=300, max_requests_per_link=4)
MOST_HELD = (4 << 20) + 128


class CheckingSink:
    """Takes only packets that parse and whose checksums are right."""

    def __init__(self) -> None:
        self.count = 0

    def packet(self, link: Hashable, packet: bytes) -> None:
        self.count += 1
        header = ip.decode(packet)
        assert header.total_length == len(packet) <= 1280
        data = packet[header.header_length :]
        total = ones_sum(data)
        total += pseudo_header_sum(header.source, header.destination, ip.TCP, len(data))
        assert total % 65535 == 0

    def burst(self, link: Hashable, packets: Rows) -> None:
        for view in packets.views:
            length = ip.decode(view).total_length
            assert not any(view[length:])
            self.packet(link, bytes(view[:length]))


class Reader:
    """The input, a few bytes at a time; zeros after its end."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    @property
    def done(self) -> bool:
        return self.at >= len(self.data)

    def take(self, count: int) -> int:
        piece = self.data[self.at : self.at + count]
        self.at += count
        return int.from_bytes(piece)


class Run:
    """One table, one flow that gets most of the attention, and its clock."""

    def __init__(self, data: bytes) -> None:
        self.input = Reader(data)
        self.table = TcpTable(CONFIG, random=lambda count: bytes(count))
        self.sink = CheckingSink()
        self.now = 100.0
        self.connections: list[TcpConnection] = []
        self.peer_next = 1000  # where the device's next byte would stand

    @property
    def connection(self) -> TcpConnection | None:
        return self.connections[-1] if self.connections else None

    def go(self) -> None:
        if self.input.take(1) & 1:
            self.open()
        while not self.input.done:
            step = self.input.take(1)
            STEPS[step % len(STEPS)](self)
            if step & 0x80:
                self.flush()
        self.end()

    def open(self) -> None:
        """An ordinary handshake, so that what follows reaches the interesting states."""
        self.receive(PATH.build(999, 0, 2, 65535, OPTIONS[self.input.take(1) % 3]))
        connection = self.connection
        assert connection is not None
        connection.accept(self.now)
        self.flush()
        self.receive(PATH.build(1000, connection.initial + 1, 16, 512))
        self.flush()

    def receive(self, packet: bytes) -> None:
        header = ip.decode(packet)
        self.table.receive(LINK, memoryview(packet), header, self.now)
        self.connections += [request.connection for request in self.table.events()]

    def numbers(self) -> tuple[int, int]:
        """Sequence and acknowledgement, mostly near what is expected."""
        kind = self.input.take(1)
        connection = self.connection
        sequence, ack = self.peer_next, 0
        if connection is not None and connection.path is not None:
            sequence, ack = connection.receiver.nxt, connection.sender.una
            if kind & 8:
                ack = connection.sender.nxt
        if kind & 1:
            sequence += self.input.take(2) - 0x8000 // (1 + (kind >> 4))
        if kind & 2:
            ack += self.input.take(2) - (0x8000 if kind & 4 else 0)
        return sequence, ack

    def segment(self) -> None:
        sequence, ack = self.numbers()
        flags = self.input.take(1) if self.input.take(1) & 7 == 0 else 16
        size = self.input.take(2) % 1400 if self.input.take(1) & 1 else 0
        options = self.options(ack)
        path = OTHER_PATH if self.input.take(1) == 255 else PATH
        window = self.input.take(2)
        self.receive(path.build(sequence, ack, flags, window, options, bytes(size)))

    def options(self, ack: int) -> bytes:
        kind = self.input.take(1)
        if kind & 3 == 1:
            low = ack + self.input.take(2)
            high = low + self.input.take(2)
            return b"\x01\x01\x05\x0a" + b"".join(
                (edge & 0xFFFFFFFF).to_bytes(4) for edge in (low, high)
            )
        if kind & 3 == 2:
            return self.input.take(8).to_bytes(8)
        return b""

    def burst(self) -> None:
        sequence, ack = self.numbers()
        count, size = self.input.take(1) % 60 + 1, self.input.take(2) % 1241
        step = self.input.take(2) if self.input.take(1) & 1 else 0
        rows = [
            PATH.build(sequence + i * size, ack + i * step, 16, 512, b"", bytes(size))
            for i in range(count)
        ]
        matrix = np.frombuffer(b"".join(rows), np.uint8).reshape(count, -1)
        if not self.table.receive_burst(LINK, KEY, matrix, 20, 40 + size, self.now):
            for row in rows:
                self.receive(row)

    def call(self) -> None:
        connection = self.connection
        if connection is None:
            source = (ADDRESSES[4:], 443)
            self.connections.append(
                self.table.connect(LINK, source, (ADDRESSES[:4], 51201), self.now)
            )
            return
        kind, count = self.input.take(1) % 10, self.input.take(2)
        if kind == 0:
            connection.accept(self.now)
        elif kind == 1:
            connection.write(bytes(count), self.now)
        elif kind == 2:
            room = connection.reserve(count)
            connection.commit(len(room) // 2, self.now)
        elif kind in (3, 4):
            connection.read(count)
        elif kind == 5:
            connection.close(self.now)
        elif kind == 6 and count & 7 == 0:
            connection.abort(self.now)
        elif kind == 7 and count & 7 == 0:
            connection.release(self.now)
        elif kind == 8 and count & 7 == 0:
            connection.refuse(self.now)
        elif kind == 9:
            self.icmp(connection, count)

    def icmp(self, connection: TcpConnection, count: int) -> None:
        kinds = list(IcmpErrorKind)
        remote, local = connection.remote, connection.local
        near = connection.initial + count
        error = IcmpError(
            LINK, kinds[count % len(kinds)], ip.TCP, connection.key, remote, local, count, near
        )
        self.table.icmp_error(connection.key, error)

    def wait(self) -> None:
        self.now += self.input.take(2) / (1000 if self.input.take(1) & 3 else 10)
        self.table.handle_timer(self.now)

    def flush(self) -> None:
        self.table.take_ready()
        before = self.sink.count
        self.table.flush(self.now, self.sink)
        assert self.sink.count - before <= 256 + 100 * len(self.connections) + 100
        for connection in self.connections:
            assert connection.readable <= MOST_HELD
            if connection.path is not None:
                flight, sender = connection.sender.flight, connection.sender
                assert len(flight.runs) <= CONFIG.max_runs + 4
                assert min(flight.in_flight, flight.sacked, flight.lost) >= 0
                assert sender.una <= sender.nxt <= sender.end or not connection.established

    def end(self) -> None:
        """Left alone, everything comes to an end: released, then a day of nothing."""
        self.flush()
        for connection in self.connections:
            connection.release(self.now)
        self.flush()
        limit = self.now + 86_400
        for _ in range(5_000):
            deadline = self.table.deadline()
            if deadline is None:
                break
            self.now = max(self.now, deadline)
            assert self.now < limit, "a connection that does not end"
            self.table.handle_timer(self.now)
            self.flush()
        else:
            raise AssertionError("the timer spins")
        assert not len(self.table)


STEPS = (Run.segment, Run.segment, Run.segment, Run.burst, Run.call, Run.call, Run.wait)


def one_input(data: bytes) -> None:
    """Play `data` to a fresh table."""
    Run(data).go()
