"""What concerns all connections: unknown segments, bounds, timers, links."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Hashable

from lopower.bursts import Rows
from lopower.netstack.ip import IpHeader, parse
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.state import TcpError
from lopower.netstack.tcp.table import TcpTable
from lopower.netstack.tcp.wire import ACK, RST, SYN, make_path, reverse
from tests.netstack.tcp.pair import DEVICE_V4, HOST_V4, LINK, Conditions, Pair, Wire
from tests.netstack.tcp.script import HANDSHAKE, Script


class Collector:
    """A sink that keeps packets of any link."""

    def __init__(self) -> None:
        self.packets: list[tuple[Hashable, bytes]] = []

    def packet(self, link: Hashable, packet: bytes) -> None:
        self.packets.append((link, packet))

    def burst(self, link: Hashable, packets: Rows) -> None:
        self.packets += [(link, bytes(view)) for view in packets.views]


def key(port: int) -> bytes:
    return DEVICE_V4[0] + HOST_V4[0] + port.to_bytes(2) + HOST_V4[1].to_bytes(2)


def deliver(
    table: TcpTable,
    port: int,
    flags: int,
    *,
    link: Hashable = LINK,
    sequence: int = 9,
    ack: int = 0,
) -> None:
    packet = make_path(reverse(key(port))).build(sequence, ack, flags, 1000)
    ip = parse(packet)
    assert ip is not None
    table.receive(link, memoryview(packet), ip, 10.0)


# Segments of no connection (RFC 9293, 3.5.2)


def test_unknown_segments_are_reset() -> None:
    t = Script()
    t.initial = 0
    t("""
        < . 100:100(0) ack 77
        > R 77:77(0)
        < P. 100:110(10) ack 77
        > R 77:77(0)
        < S. 100:100(0) ack 77
        > R 77:77(0)
        < P 100:110(10)
        > R. 0:0(0) ack 110
        < F 100:110(10)
        > R. 0:0(0) ack 111
        < SF 100:100(0)
        > R. 0:0(0) ack 102
        < R 100:100(0)
        < R. 100:100(0) ack 77
        quiet
    """)


def test_resets_are_rate_limited() -> None:
    table, sink = TcpTable(), Collector()
    for port in range(1, 201):
        deliver(table, port, ACK)
    table.flush(10.0, sink)
    assert len(sink.packets) == 50


def test_packets_of_no_connection_are_bounded() -> None:
    table, sink = TcpTable(TcpConfig(reset_burst=10_000.0)), Collector()
    for port in range(1, 1001):
        deliver(table, port, ACK)
    table.flush(10.0, sink)
    assert len(sink.packets) == 256


def test_truncated_and_malformed_segments() -> None:
    table, sink = TcpTable(), Collector()
    good = make_path(reverse(key(5))).build(1, 0, SYN, 1000)
    ip = parse(good)
    assert ip is not None
    short = ip._replace(total_length=ip.header_length + 19)
    table.receive(LINK, memoryview(good), short, 10.0)
    for offset in (0x00, 0x40, 0x60, 0xF0):
        bad = bytearray(good)
        bad[32] = offset
        table.receive(LINK, memoryview(bad), ip, 10.0)
    table.flush(10.0, sink)
    assert not table.events()
    assert not sink.packets


# Bounds


def test_the_backlog_is_bounded_per_link_and_in_all() -> None:
    table = TcpTable(TcpConfig(max_requests=10, max_requests_per_link=4))
    for link in range(5):
        for port in range(1, 20):
            deliver(table, port, SYN, link=link)
    requests = table.events()
    assert [request.connection.link for request in requests] == [0] * 4 + [1] * 4 + [2] * 2
    requests[0].connection.refuse(10.0)
    deliver(table, 100, SYN, link=3)
    assert len(table.events()) == 1
    for request in requests:
        request.connection.ignore()
    assert len(table) == 1
    assert table._backlog == {3: 1}


def test_an_established_connection_leaves_the_backlog() -> None:
    t = Script(TcpConfig(max_requests_per_link=1))(HANDSHAKE)
    deliver(t.table, 9, SYN)
    assert len(t.table.events()) == 1
    assert len(t.table) == 2


def test_connections_are_bounded() -> None:
    table = TcpTable(TcpConfig(max_connections=3))
    for port in range(1, 9):
        deliver(table, port, SYN)
    assert len(table) == 3


def test_a_syn_storm_costs_less_than_a_megabyte() -> None:
    table = TcpTable()
    packets = []
    for link in range(40):
        for port in range(1, 501):
            packet = make_path(reverse(key(port))).build(port, 0, SYN, 1000)
            packets.append((link, packet, parse(packet)))
    deliver(table, 1, SYN, link="warm")
    gc.collect()
    tracemalloc.start()
    for link, packet, ip in packets:
        assert ip is not None
        table.receive(link, memoryview(packet), ip, 10.0)
    gc.collect()
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(table) == 512
    assert held < 700_000
    assert peak < 1_000_000


def test_an_idle_connection_holds_little() -> None:
    pair = Pair(Conditions(delay=0.001), checked=False)
    config = pair.host.table.config
    held = []
    for count in (20, 220):
        while len(pair.accepted) < count:
            port = 1000 + len(pair.accepted)
            client = pair.device.table.connect(LINK, (DEVICE_V4[0], port), HOST_V4, pair.now)
            pair.flush()
            pair.run(0.01)
            client.write(b"question", pair.now)
            pair.accepted[-1].write(b"answer", pair.now)
            pair.flush()
            pair.run(0.5)
            assert client.read() == b"answer"
            assert pair.accepted[-1].read() == b"question"
        gc.collect()
        if not tracemalloc.is_tracing():
            tracemalloc.start()
        held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert config.max_connections > 10_000
    assert (held[1] - held[0]) / 400 < 2048  # two ends each


# Links, timers, lists


def test_dropping_a_link_ends_its_connections_in_silence() -> None:
    table, sink = TcpTable(), Collector()
    for link in ("one", "two"):
        for port in (1, 2):
            deliver(table, port, SYN, link=link)
        deliver(table, 3, ACK, link=link)
        table._remember(link, b"k", 1, 1, 10.0)
    requests = table.events()
    table.drop_link("one")
    table.flush(10.0, sink)
    assert [link for link, _ in sink.packets] == ["two"]
    assert len(table) == 2
    assert list(table._time_wait) == [("two", b"k")]
    assert {r.connection.error for r in requests} == {TcpError.LINK_DOWN, None}
    ended = [c for c in table.take_ready() if c.closed]
    assert len(ended) == 2


def test_the_same_flow_on_two_links_is_two_connections() -> None:
    table = TcpTable()
    deliver(table, 1, SYN, link="one")
    deliver(table, 1, SYN, link="two")
    assert len(table.events()) == 2


def test_ready_names_each_connection_once() -> None:
    t = Script()(HANDSHAKE)
    t.flush()
    for i in range(3):
        packet = t.packet(f"P. {1 + i}:{2 + i}(1) ack 1 win 512")
        ip = parse(packet)
        assert ip is not None
        t.table.receive(LINK, memoryview(packet), ip, t.now)
    assert t.table.take_ready() == [t.tcp]
    assert t.table.take_ready() == []


def test_ready_tells_of_space() -> None:
    t = Script()(HANDSHAKE)("write 100\n> P. 1:101(100) ack 1")
    assert not t.table.take_ready()
    packet = t.packet(". 1:1(0) ack 101 win 512")
    ip = parse(packet)
    assert ip is not None
    t.table.receive(LINK, memoryview(packet), ip, t.now)
    assert t.table.take_ready() == [t.tcp]


def test_stale_timers_are_swept() -> None:
    t = Script()(HANDSHAKE)
    at = 1
    for _ in range(3000):
        t(f"write 1\n> P. {at}:{at + 1}(1) ack 1")
        at += 1
        t(f"< . 1:1(0) ack {at} win 512")
        t.now += 0.3
        t.table.handle_timer(t.now)
    assert len(t.table._timers) < 300


def test_a_timer_without_a_flush_does_not_spin() -> None:
    t = Script()(HANDSHAKE)("write 10\n> P. 1:11(10) ack 1")
    t.now += 1
    t.table.handle_timer(t.now)
    t.table.handle_timer(t.now)
    deadline = t.table.deadline()
    assert deadline is None or deadline > t.now
    t("> P. 1:11(10) ack 1")


def test_ended_connections_have_no_timers() -> None:
    t = Script()(HANDSHAKE)("abort\n> R. 1:1(0) ack 1\n+10000\nquiet")
    t.tcp.on_timer(t.now)
    t.tcp.drop(TcpError.LINK_DOWN)
    t("error ABORTED\nquiet")
    assert t.table.deadline() is None


def test_initial_sequence_numbers_differ_and_grow() -> None:
    """RFC 6528."""
    one, two = TcpTable(), TcpTable()
    numbers = {table._sequences.initial(key(p), 5.0) for table in (one, two) for p in range(50)}
    assert len(numbers) == 100
    before = one._sequences.initial(key(1), 5.0)
    assert (one._sequences.initial(key(1), 6.0) - before) & 0xFFFFFFFF == 250_000


def test_burst_of_no_connection() -> None:
    import numpy as np

    table = TcpTable()
    assert not table.receive_burst(LINK, key(1), np.zeros((8, 1280), np.uint8), 20, 1280, 1.0)


def test_a_packet_with_ip_options() -> None:
    t = Script()(HANDSHAKE)
    packet = t.packet("P. 1:11(10) ack 1 win 512")
    longer = packet[:20] + bytes(4) + packet[20:]
    ip = IpHeader(4, t.device[0], t.host[0], 6, 24, len(longer), t.key, 9)
    t.table.receive(LINK, memoryview(longer), ip, t.now)
    t("> . 1:1(0) ack 11\nread 10")


def test_owner_and_links_are_not_looked_at() -> None:
    table = TcpTable()
    link = object()
    deliver(table, 1, SYN, link=link)
    (request,) = table.events()
    assert isinstance(request.connection, TcpConnection)
    assert request.connection.link is link
    request.connection.owner = object()
    wire = Wire()
    wire.packet(LINK, make_path(key(1)).build(1, 2, RST, 0))
    assert request.connection.closed is False
