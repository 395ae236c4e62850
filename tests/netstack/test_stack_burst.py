"""The burst path against the reference: it takes all or nothing, and as the packets say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.bursts import Matrix
from lopower.netstack import icmp, ip, stack, udp
from lopower.netstack.checksum import checksum
from lopower.netstack.ip import FRAGMENT, ICMP, TCP, UDP

DEVICE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
REMOTE = {4: bytes([192, 0, 2, 7]), 6: bytes.fromhex("20010db8") + bytes(11) + b"\x07"}
PORTS = bytes([21, 179, 0, 80])
VERSIONS = pytest.mark.parametrize("version", [4, 6])
COUNT = 16


def matrix(packets: list[bytes], width: int | None = None) -> Matrix:
    """Rows padded with zeros to a multiple of 16, or to `width`."""
    width = width or max(map(len, packets)) + 15 & ~15
    joined = b"".join(packet.ljust(width, b"\0") for packet in packets)
    return np.frombuffer(joined, np.uint8).reshape(len(packets), width).copy()


def segment(version: int, number: int, size: int = 100) -> bytes:
    data = PORTS + number.to_bytes(4) + bytes(12) + bytes([number & 255]) * size
    return ip.build_header(DEVICE[version], REMOTE[version], TCP, len(data)) + data


def segments(version: int, count: int = COUNT, size: int = 100) -> list[bytes]:
    return [segment(version, number, size) for number in range(count)]


def datagrams(version: int, count: int = COUNT, size: int = 100) -> list[bytes]:
    ends = (DEVICE[version], 5555), (REMOTE[version], 53)
    return [udp.build(*ends, bytes([number & 255]) * size) for number in range(count)]


def change(packet: bytes, at: int, value: int) -> bytes:
    """The packet with one byte changed and the checksum of an IPv4 header right again."""
    changed = bytearray(packet)
    changed[at] = value
    if changed[0] == 0x45:
        changed[10:12] = bytes(2)
        changed[10:12] = checksum(changed[:20]).to_bytes(2)
    return bytes(changed)


@VERSIONS
@pytest.mark.parametrize("size", [0, 1, 90, 1220])
@pytest.mark.parametrize("count", [2, 3, 50])
def test_segments_of_one_flow(version: int, size: int, count: int, wire: Any) -> None:
    packets = segments(version, count, size)
    assert wire.stack.receive_burst("device", matrix(packets), 5.0)
    header = ip.decode(packets[0])
    assert wire.tcp.calls == [
        ("burst", "device", header.key, packets, header.header_length, header.total_length, 5.0)
    ]


@VERSIONS
def test_tcp_has_the_last_word(version: int, wire: Any) -> None:
    wire.tcp.burst_answer = False
    assert not wire.stack.receive_burst("device", matrix(segments(version)), 0.0)


@VERSIONS
def test_rows_of_odd_widths_and_slices(version: int, wire: Any) -> None:
    packets = segments(version)
    for width in (len(packets[0]), len(packets[0]) + 1, 255):
        rows = matrix(packets, width)
        assert wire.stack.receive_burst("device", rows, 0.0)
        assert wire.stack.receive_burst("device", np.hstack([rows, rows])[:, :width], 0.0)
    assert all(call[3] == packets for call in wire.tcp.calls)


@pytest.mark.parametrize("at", [1, 4, 5, 8])
def test_what_may_differ_v4(at: int, wire: Any) -> None:
    packets = [change(packet, at, 40 + n) for n, packet in enumerate(segments(4))]
    assert wire.stack.receive_burst("device", matrix(packets), 0.0)


def test_df_may_differ(wire: Any) -> None:
    packets = [change(packet, 6, 0x40 * (n & 1)) for n, packet in enumerate(segments(4))]
    assert wire.stack.receive_burst("device", matrix(packets), 0.0)


@pytest.mark.parametrize(("at", "value"), [(0, 0x6A), (1, 0xB0), (2, 7), (3, 9), (7, 3)])
def test_what_may_differ_v6(at: int, value: int, wire: Any) -> None:
    packets = segments(6)
    packets[5] = change(packets[5], at, value)
    assert wire.stack.receive_burst("device", matrix(packets), 0.0)


V4_FIXED = [0, 2, 3, 6, 7, 9, *range(12, 24)]
V6_FIXED = [0, 4, 5, 6, *range(8, 44)]


@pytest.mark.parametrize(
    ("version", "at"), [*((4, at) for at in V4_FIXED), *((6, at) for at in V6_FIXED)]
)
@pytest.mark.parametrize("row", [0, 7, COUNT - 1])
def test_what_may_not_differ(version: int, at: int, row: int, wire: Any) -> None:
    ports = range(20, 24) if version == 4 else range(40, 44)
    for packets in (segments(version), datagrams(version)):
        packets[row] = change(packets[row], at, packets[row][at] ^ 0x10)
        if at in ports and packets[0][9 if version == 4 else 6] == TCP:
            continue  # see test_segments_of_several_flows
        assert not wire.stack.receive_burst("device", matrix(packets), 0.0)
    assert not wire.tcp.calls
    assert wire.stack.events() == []
    assert not wire.dropped()


@VERSIONS
def test_segments_of_several_flows(version: int, wire: Any) -> None:
    """Each flow is one burst in its own order; a flow with one packet goes by the reference."""
    packets = segments(version, 20)
    ports_at = {4: 20, 6: 40}[version]
    for row in range(0, 20, 3):
        packets[row] = change(packets[row], ports_at, 7)
    packets[19] = change(packets[19], ports_at, 9)
    assert wire.stack.receive_burst("device", matrix(packets), 0.0)
    flows: dict[bytes, list[bytes]] = {}
    for _, packet, key, *_ in seen_by_tcp(wire.tcp.calls):
        flows.setdefault(key, []).append(bytes(packet))
    expected: dict[bytes, list[bytes]] = {}
    for packet in packets:
        expected.setdefault(ip.decode(packet).key, []).append(packet)
    assert flows == expected
    assert sorted(call[0] for call in wire.tcp.calls) == ["burst", "burst", "receive"]


def test_a_mixed_burst_with_other_protocols_is_for_the_reference(wire: Any) -> None:
    packets = [*segments(4, 10), *datagrams(4, 10)]
    assert not wire.stack.receive_burst("device", matrix(packets), 0.0)
    assert not wire.tcp.calls


@pytest.mark.parametrize("row", [0, 7, COUNT - 1])
def test_every_header_checksum_is_verified(row: int, wire: Any) -> None:
    for packets in (segments(4), datagrams(4)):
        rows = matrix(packets)
        rows[row, 10] ^= 1
        assert not wire.stack.receive_burst("device", rows, 0.0)


def fragments_of(version: int) -> list[bytes]:
    whole = udp.build((DEVICE[version], 5555), (REMOTE[version], 53), bytes(100))
    data = whole[20 if version == 4 else 40 :]
    if version == 4:
        header = ip.ipv4_header(DEVICE[4], REMOTE[4], UDP, len(data), flags=ip.MORE_FRAGMENTS)
        return [header + data] * COUNT
    payload = ip.fragment_header(UDP, 0, False, 1) + data  # an atomic one
    return [ip.ipv6_header(DEVICE[6], REMOTE[6], FRAGMENT, len(payload)) + payload] * COUNT


def with_options(packet: bytes) -> bytes:
    header = bytearray(packet[:20] + b"\x01\x01\x01\x00")
    header[0] = 0x46
    header[2:4] = (len(packet) + 4).to_bytes(2)
    header[10:12] = bytes(2)
    header[10:12] = checksum(header).to_bytes(2)
    return bytes(header) + packet[20:]


def pings() -> list[bytes]:
    return [icmp.build_message(DEVICE[4], REMOTE[4], 8, 0, bytes(60))] * COUNT


@pytest.mark.parametrize(
    "packets",
    [
        fragments_of(4),
        fragments_of(6),
        [with_options(packet) for packet in segments(4)],
        pings(),
        [ip.ipv4_header(DEVICE[4], REMOTE[4], ICMP, 0)] * COUNT,
        [bytes(64)] * COUNT,
        [ip.ipv4_header(DEVICE[4], REMOTE[4], TCP, 3) + bytes(3)] * COUNT,
        [ip.ipv4_header(DEVICE[4], REMOTE[4], UDP, 4) + PORTS] * COUNT,
        [udp.build((DEVICE[4], 1), (bytes([224, 0, 0, 251]), 2), bytes(60))] * COUNT,
        [udp.build((DEVICE[4], 1), (DEVICE[4], 2), bytes(60))] * COUNT,
        [udp.build((DEVICE[4], 1), (REMOTE[4], 0), bytes(60))] * COUNT,
        segments(4, 1),
        datagrams(4, stack.MIN_UDP_BURST - 1),
        [ip.ipv4_header(DEVICE[4], REMOTE[4], TCP, 999) + bytes(60)] * COUNT,
    ],
    ids=range(14),
)
def test_all_else_is_for_the_reference(packets: list[bytes], wire: Any) -> None:
    assert not wire.stack.receive_burst("device", matrix(packets), 0.0)
    assert not wire.tcp.calls
    assert wire.stack.events() == []
    assert not wire.dropped()


@pytest.mark.parametrize("width", [1, 8, 9, 19, 20, 39])
def test_rows_narrower_than_any_header(width: int, wire: Any) -> None:
    for count in (0, 1, 2, 20):
        rows = np.full((count, width), 0x45, np.uint8)
        assert not wire.stack.receive_burst("device", rows, 0.0)


@VERSIONS
@pytest.mark.parametrize("size", [0, 1, 100, 1220])
def test_datagrams_of_one_flow(version: int, size: int, wire: Any) -> None:
    packets = datagrams(version, 40, size)
    assert wire.stack.receive_burst("device", matrix(packets), 0.0)
    events = wire.stack.events()
    for packet in packets:
        wire.stack.receive("device", memoryview(packet), 0.0)
    assert events == wire.stack.events()
    assert len(events) == 40


@VERSIONS
def test_a_udp_length_that_is_wrong_in_one_row(version: int, wire: Any) -> None:
    packets = datagrams(version)
    at = {4: 25, 6: 45}[version]
    packets[9] = change(packets[9], at, packets[9][at] - 1)
    assert not wire.stack.receive_burst("device", matrix(packets), 0.0)
    assert wire.stack.events() == []


def test_more_datagrams_than_may_wait(wire: Any) -> None:
    rows = matrix(datagrams(4, 100))
    for _ in range(stack.MAX_EVENTS // 100):
        assert wire.stack.receive_burst("device", rows, 0.0)
    assert not wire.stack.receive_burst("device", rows, 0.0)
    assert len(wire.stack.events()) == stack.MAX_EVENTS // 100 * 100


mutations = st.lists(
    st.tuples(st.integers(0, COUNT - 1), st.integers(0, 63), st.integers(0, 255)), max_size=4
)


@given(
    packets=st.sampled_from([segments(4), segments(6), datagrams(4), datagrams(6), pings()]),
    changes=mutations,
    fix=st.booleans(),
)
def test_a_burst_is_what_its_packets_are(
    new_wire: type, packets: list[bytes], changes: list[tuple[int, int, int]], fix: bool
) -> None:
    """Whatever is changed: taken as a burst, it tells TCP and the proxy what the packets tell."""
    rows = matrix(packets)
    for row, at, value in changes:
        if fix:
            rows[row, : len(packets[0])] = np.frombuffer(
                change(rows[row, : len(packets[0])].tobytes(), at, value), np.uint8
            )
        else:
            rows[row, at] = value
    together, one_by_one = new_wire(), new_wire()
    for row in rows:
        one_by_one.stack.receive("device", memoryview(row.tobytes()), 1.0)
    if not together.stack.receive_burst("device", rows, 1.0):
        assert not together.tcp.calls
        for row in rows:
            together.stack.receive("device", memoryview(row.tobytes()), 1.0)
    assert together.stack.events() == one_by_one.stack.events()
    assert together.dropped() == one_by_one.dropped()
    assert together.sent() == one_by_one.sent()
    # Flows may overtake each other within a burst; within a flow nothing does.
    flows = [sorted(seen_by_tcp(w.tcp.calls), key=lambda c: c[2]) for w in (together, one_by_one)]
    assert flows[0] == flows[1]


def seen_by_tcp(calls: list[tuple[Any, ...]]) -> Any:
    """The segments, however they came."""
    for call in calls:
        if call[0] == "receive":
            _, link, packet, header, now = call
            yield link, packet, header.key, header.header_length, now
        elif call[0] == "burst":
            _, link, key, packets, header_length, _, now = call
            for packet in packets:
                yield link, packet, key, header_length, now
