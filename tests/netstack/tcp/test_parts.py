"""The parts by themselves: ring, reassembly, scoreboard, checksums, congestion, round trips."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.checksum import ones_sum
from lopower.netstack.tcp.burst import BurstWriter
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.congestion import Cubic, NewReno, SlowStart, make_congestion
from lopower.netstack.tcp.flight import IN_FLIGHT, LOST, SACKED, Flight
from lopower.netstack.tcp.receiver import Receiver
from lopower.netstack.tcp.rtt import RttEstimator
from lopower.netstack.tcp.sendbuffer import BufferPool, SendBuffer
from lopower.netstack.tcp.sequence import unwrap
from lopower.netstack.tcp.wire import ACK, make_path, parse_segment, reverse
from tests.netstack.tcp.pair import DEVICE_V4, DEVICE_V6, HOST_V4, HOST_V6, LINK, Wire, check_packet

KEYS = [
    DEVICE_V4[0] + HOST_V4[0] + bytes((1, 2, 3, 4)),
    DEVICE_V6[0] + HOST_V6[0] + bytes((1, 2, 3, 4)),
]
MSS = 1240


@given(st.integers(0, 1 << 40), st.integers(-(1 << 31), (1 << 31) - 1))
def test_unwrap(near: int, distance: int) -> None:
    assert unwrap((near + distance) & 0xFFFFFFFF, near) == near + distance


# The ring


@settings(max_examples=80)
@given(st.lists(st.tuples(st.sampled_from("wracp"), st.integers(0, 9000)), max_size=60))
def test_the_ring_is_a_queue_of_bytes(steps: list[tuple[str, int]]) -> None:
    buffer = SendBuffer(BufferPool(1 << 20), 1000)
    model, start, bound = bytearray(), 1000, 20_000
    for fill, (kind, count) in enumerate(steps):
        data = bytes((fill + i) & 0xFF for i in range(count))
        if kind == "w":
            taken = buffer.write(data, bound)
            assert taken == min(count, bound - len(model))
            model += data[:taken]
        elif kind == "r":
            room = buffer.reserve(count, bound)
            assert len(room) <= min(count, max(bound - len(model), 0))
            room[:] = data[: len(room)]
            model += data[: len(room)]
            buffer.commit(len(room))
        elif kind == "a":
            gone = min(count, len(model))
            del model[:gone]
            start += gone
            buffer.advance(start)
        elif kind == "p" and model:
            low = start + count % len(model)
            assert bytes(buffer.peek(low, start + len(model))) == model[low - start :]
        elif kind == "c" and len(model) >= 300:
            rows = np.zeros((len(model) // 300, 400), np.uint8)
            buffer.copy_rows(start, rows[:, 50:350])
            assert rows[:, 50:350].tobytes() == model[: len(rows) * 300]
        assert (buffer.start, buffer.end, len(buffer)) == (start, start + len(model), len(model))


def test_rings_are_used_again() -> None:
    pool = BufferPool(100_000)
    first = pool.take(65536)
    pool.give(first)
    assert pool.take(65536) is first
    pool.give(first)
    pool.give(np.empty(65536, np.uint8))  # beyond the bound
    assert pool.take(65536) is first
    assert pool.take(65536) is not first


# Reassembly


@settings(max_examples=150)
@given(
    st.lists(st.tuples(st.integers(-20, 200), st.integers(0, 60)), max_size=40),
    st.integers(150, 220),
    st.integers(1, 50),
)
def test_reassembly_gives_the_bytes_in_order(
    segments: list[tuple[int, int]], total: int, step: int
) -> None:
    data = bytes(range(256))
    receiver = Receiver(TcpConfig(), 4999, MSS, 0)
    have: set[int] = set()
    read = bytearray()
    for start, count in [*segments, *((at, step) for at in range(0, total, step))]:
        low, high = max(start, 0), max(min(start + count, total), max(start, 0))
        if high <= low and start + count <= receiver.nxt - 5000:
            continue
        before = receiver.nxt
        moved = receiver.receive(5000 + low, data[low:high], high == total)
        have |= set(range(low, high))
        upto = min(set(range(total + 1)) - have)
        end = upto + (upto == total and receiver.fin_at < inf)
        assert receiver.nxt == 5000 + end
        assert moved == (receiver.nxt > before)
        _check_blocks(receiver, have)
        if start % 3 == 0:
            read += receiver.read(7)
    while piece := receiver.read(50):
        read += piece
    assert read == data[:total]
    assert receiver.finished
    assert receiver.readable == 0


def _check_blocks(receiver: Receiver, have: set[int]) -> None:
    nxt = receiver.nxt - 5000
    ranges = (
        [(r.start - 5000, r.end - 5000) for r in receiver.queue.ranges] if receiver.queue else []
    )
    assert {i for low, high in ranges for i in range(low, high)} == {i for i in have if i > nxt}
    assert all(a[1] < b[0] for a, b in pairwise(ranges))
    for low, high in receiver.sack_blocks():
        assert high <= receiver.nxt or (low - 5000, high - 5000) in ranges or high - low < 61


# The scoreboard


def check_flight(flight: Flight, una: int, nxt: int) -> None:
    runs = flight.runs
    if una < nxt:
        assert runs[0].start == una
        assert runs[-1].end == nxt
    assert all(a.end == b.start for a, b in pairwise(runs))
    assert all(run.start < run.end for run in runs)
    for state, counter in (
        (IN_FLIGHT, flight.in_flight),
        (SACKED, flight.sacked),
        (LOST, flight.lost),
    ):
        assert sum(r.end - r.start for r in runs if r.state == state) == counter


@settings(max_examples=300)
@given(
    st.lists(
        st.tuples(st.sampled_from("nassdltrfuq"), st.integers(0, 50), st.integers(1, 30)),
        max_size=80,
    )
)
def test_the_scoreboard_accounts_for_every_byte(steps: list[tuple[str, int, int]]) -> None:
    una = nxt = 100
    flight = Flight(100, 64, inf, False)
    now = 0.0
    for kind, at, count in steps:
        now += 0.01
        if kind == "n" and not flight.full:
            flight.sent(nxt, nxt + count, now)
            nxt += count
        elif una == nxt:
            continue
        elif kind == "a":
            una = min(una + at, nxt)
            flight.acknowledge(una, now)
        elif kind == "s":
            low = una + 1 + at
            if low < min(low + count, nxt):
                flight.sack(low, min(low + count, nxt), now)
        elif kind == "d":
            flight.detect_losses(0.005 if at & 1 else 0.0, now)
        elif kind == "l":
            flight.mark_first_lost(10)
        elif kind == "t":
            flight.mark_all_lost()
        elif kind == "r":
            taken = flight.take_lost(at, 5, now)
            assert all(a[1] <= b[0] for a, b in pairwise(taken))
            assert sum(high - low for low, high in taken) <= max(at, 5)
        elif kind == "f" and not flight.sacked:
            low, high = flight.take_last(5, now)
            assert nxt - 5 <= low < high == nxt
        elif kind == "u":
            flight.unmark_lost()
        check_flight(flight, una, nxt)
    flight.acknowledge(nxt, now)
    check_flight(flight, nxt, nxt)
    assert not flight.runs


# Packets


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("size", [0, 1, 2, 535, 1220])
def test_checksums_of_single_packets(key: bytes, size: int) -> None:
    path = make_path(key)
    for options in (b"", b"\x01\x01\x04\x02"):
        packet = path.build(0xFFFFFFFF, 0x12345678, ACK, 65535, options, bytes(range(256)) * 5)
        check_packet(packet)
        check_packet(path.build(size * 77777, 1 << 33, ACK, size, options, bytes(size)))


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("mss", [88, 536, 1000, 1001, 1220])
def test_a_matrix_of_packets_is_what_single_packets_would_be(key: bytes, mss: int) -> None:
    buffer = SendBuffer(BufferPool(1 << 20), 0xFFFFF000)
    data = bytes(i * 31 & 0xFF for i in range(30 * mss + 17))
    assert buffer.write(data, 1 << 20) == len(data)
    path = make_path(key)
    pieces = [(buffer.start, buffer.start + 9 * mss), (buffer.start + 12 * mss, buffer.end + 1)]
    writer, wire = BurstWriter(TcpConfig()), Wire()
    writer.write(wire, LINK, path, buffer, pieces, mss, 0x1_2345_6789, 4000)
    rows, tail = wire.items
    assert len(rows) == 9 + 18
    single = make_path(key)
    at = buffer.start
    for i, row in enumerate(rows):
        at = buffer.start + (i + (3 if i >= 9 else 0)) * mss
        flags = ACK | 8 if i == 26 else ACK
        expected = single.build(at, 0x23456789, flags, 4000, b"", buffer.peek(at, at + mss))
        assert isinstance(row, bytes)
        assert row.rstrip(b"\0") == expected.rstrip(b"\0")
        assert row[len(expected) :] == bytes(len(row) - len(expected))
    assert isinstance(tail, bytes)
    segment = parse_segment(tail, path.header - 20, len(tail))
    assert segment is not None
    assert segment.flags == ACK | 8 | 1
    assert len(segment.payload) == 17


def test_layouts_are_bounded() -> None:
    buffer = SendBuffer(BufferPool(1 << 20), 0)
    buffer.write(bytes(60_000), 1 << 20)
    writer, wire = BurstWriter(TcpConfig()), Wire()
    for mss in range(500, 540):
        writer.write(wire, LINK, make_path(KEYS[0]), buffer, [(0, 10 * mss)], mss, 0, 0)
    assert len(writer._layouts) == 16


def test_reverse_twice_is_nothing() -> None:
    for key in KEYS:
        assert reverse(reverse(key)) == key
        assert ones_sum(reverse(key)) == ones_sum(key)


# Round trips


def test_rto_follows_rfc_6298() -> None:
    rtt = RttEstimator(TcpConfig())
    assert rtt.rto == 1.0
    rtt.sample(0.1, 1.0)
    assert (rtt.srtt, rtt.rttvar) == (0.1, 0.05)
    assert rtt.rto == pytest.approx(0.3)
    rtt.sample(0.2, 1.1)
    assert rtt.srtt == pytest.approx(0.1125)
    assert rtt.rttvar == pytest.approx(0.0625)
    for i in range(200):
        rtt.sample(0.1, 2.0 + i)
    assert rtt.rto == pytest.approx(0.3, abs=0.001)  # the variance counts as 200 ms at least
    assert rtt.backed_off(3) == pytest.approx(rtt.rto * 8)
    assert rtt.backed_off(60) == 60.0


def test_a_minimum_is_forgotten() -> None:
    rtt = RttEstimator(TcpConfig())
    rtt.sample(0.01, 1.0)
    rtt.sample(0.05, 2.0)
    assert rtt.min_rtt == 0.01
    rtt.sample(0.05, 40.0)
    assert rtt.min_rtt == 0.05


# Congestion control


def test_slow_start_doubles_and_is_limited() -> None:
    reno = NewReno(TcpConfig(), MSS)
    assert reno.cwnd == 10 * MSS
    windows = []
    for _ in range(10):
        windows.append(reno.cwnd)
        for _ in range(reno.cwnd // MSS):
            reno.on_ack(MSS, -1.0, 0.01, 1.0)
    assert windows[1] == 2 * windows[0]
    assert windows[3] == 8 * windows[0]
    growth = [b - a for a, b in pairwise(windows[5:])]
    assert all(step <= 66 * 1024 for step in growth)  # RFC 3742
    assert all(step > 50 * 1024 for step in growth)


def test_newreno_avoids_congestion() -> None:
    reno = make_congestion(TcpConfig(congestion="newreno"), MSS)
    reno.on_congestion(1.0)
    assert reno.ssthresh == 5 * MSS
    reno.cwnd = int(reno.ssthresh)
    before = reno.cwnd
    for _ in range(reno.cwnd // MSS):
        reno.on_ack(MSS, -1.0, 0.01, 1.0)
    assert before + 0.8 * MSS <= reno.cwnd <= before + 1.1 * MSS
    reno.undo()
    assert reno.cwnd == 10 * MSS
    assert reno.ssthresh == inf
    reno.undo()
    reno.on_timeout(2.0)
    assert reno.ssthresh == 5 * MSS


def test_cubic_returns_to_where_it_was_and_beyond() -> None:
    cubic = Cubic(TcpConfig(), MSS)
    cubic.cwnd = 1000 * MSS
    cubic.on_congestion(0.0)
    cubic.cwnd = int(cubic.ssthresh)
    assert cubic.cwnd == 700 * MSS
    rtt, now = 0.1, 0.0
    plateau = beyond = 0.0
    for _ in range(250):
        now += rtt
        for _ in range(20):
            cubic.on_ack(cubic.cwnd // 20, -1.0, rtt, now)
        if cubic.cwnd >= 990 * MSS and not plateau:
            plateau = now
        if cubic.cwnd >= 1300 * MSS and not beyond:
            beyond = now
    # K = cbrt(300 / 0.4) = 9.1 s
    assert 6.0 < plateau < 10.5
    assert 15.0 < beyond < 20.0


def test_cubic_is_at_least_as_fast_as_reno() -> None:
    cubic = Cubic(TcpConfig(), MSS)
    cubic.cwnd = 20 * MSS
    cubic.on_congestion(0.0)
    cubic.cwnd = int(cubic.ssthresh)
    now = 0.0
    for _ in range(100):
        now += 0.001
        cubic.on_ack(cubic.cwnd, -1.0, 0.001, now)
    assert cubic.cwnd > 55 * MSS  # 0.53 of a segment per round trip, then one


def test_cubic_gives_way() -> None:
    """Fast convergence: a flow that lost below its last maximum remembers less."""
    cubic = Cubic(TcpConfig(), MSS)
    cubic.cwnd = 100 * MSS
    cubic.on_congestion(0.0)
    cubic.cwnd = 80 * MSS
    cubic.on_congestion(1.0)
    assert cubic._w_max == pytest.approx(80 * MSS * 0.85)
    cubic.undo()
    cubic.on_idle(5.0, 1.0)
    assert cubic.cwnd >= 10 * MSS


def test_cubic_does_not_count_pauses() -> None:
    cubic = Cubic(TcpConfig(), MSS)
    cubic.on_congestion(0.0)
    cubic.cwnd = int(cubic.ssthresh)
    cubic.on_ack(MSS, -1.0, 0.1, 1.0)
    cubic.on_idle(1000.0, 500.0)
    before = cubic.cwnd
    cubic.on_ack(MSS, -1.0, 0.1, 1001.0)
    assert cubic.cwnd <= before + MSS


def test_slow_start_ends_when_the_delay_grows() -> None:
    """HyStart++ (RFC 9406)."""
    reno = NewReno(TcpConfig(), MSS)
    for _ in range(10):
        reno.on_ack(MSS, 0.050, 0.05, 1.0)
    reno.on_round()
    for _ in range(10):
        reno.on_ack(MSS, 0.070, 0.05, 1.1)
    before = reno.cwnd
    reno.on_ack(4 * MSS, 0.070, 0.05, 1.1)
    assert reno.cwnd == before + MSS  # a quarter
    for _ in range(5):
        assert reno.ssthresh == inf
        reno.on_round()
    assert reno.ssthresh == reno.cwnd


def test_slow_start_goes_on_after_jitter() -> None:
    start = SlowStart()
    for rtt in [0.05] * 8:
        start.sample(rtt)
    assert not start.end_round()
    for rtt in [0.07] * 8:
        start.sample(rtt)
    assert start.cautious
    assert not start.end_round()
    for rtt in [0.05] * 8:
        start.sample(rtt)
    assert not start.cautious
