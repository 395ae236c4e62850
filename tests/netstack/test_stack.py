"""The stack packet by packet: what becomes an event, what is answered, what is dropped and why."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.netstack import icmp, ip, stack, udp
from lopower.netstack.checksum import checksum
from lopower.netstack.events import (
    EchoRequest,
    IcmpError,
    IcmpErrorKind,
    UdpDatagram,
    Unreachable,
)
from lopower.netstack.ip import FRAGMENT, HOP_BY_HOP, ICMP, ICMPV6, ROUTING, TCP, UDP

GATEWAY = {4: bytes([10, 90, 0, 1]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x01"}
DEVICE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
REMOTE = {4: bytes([192, 0, 2, 7]), 6: bytes.fromhex("20010db8") + bytes(11) + b"\x07"}
ECHO = {4: 8, 6: 128}
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def datagram(version: int, payload: bytes = b"question", **ends: bytes) -> bytes:
    source = ends.get("source", DEVICE[version])
    destination = ends.get("destination", REMOTE[version])
    return udp.build((source, 5555), (destination, 53), payload)


def packet_of(version: int, protocol: int, data: bytes) -> bytes:
    return ip.build_header(DEVICE[version], REMOTE[version], protocol, len(data)) + data


def ping(version: int, destination: bytes, payload: bytes = b"abcd") -> bytes:
    rest = bytes([0, 7, 0, 9]) + payload
    return icmp.build_message(DEVICE[version], destination, ECHO[version], 0, rest)


def with_router_alert(packet: bytes) -> bytes:
    header = bytearray(packet[:20] + b"\x94\x04\0\0")
    header[0] = 0x46
    header[2:4] = (len(packet) + 4).to_bytes(2)
    header[10:12] = bytes(2)
    header[10:12] = checksum(header).to_bytes(2)
    return bytes(header) + packet[20:]


def with_hop_by_hop(packet: bytes) -> bytes:
    header = bytearray(packet[:40])
    extension = bytes([header[6], 0, 5, 2, 0, 0, 1, 0])  # a router alert
    header[6] = HOP_BY_HOP
    header[4:6] = (len(packet) - 32).to_bytes(2)
    return bytes(header) + extension + packet[40:]


# --- UDP ---


@VERSIONS
@pytest.mark.parametrize("payload", [b"", b"x", bytes(1200)])
def test_a_datagram(version: int, payload: bytes, wire: Any) -> None:
    packet = datagram(version, payload)
    for padding in (b"", bytes(16)):
        events = wire.receive(packet + padding)
        assert events == [
            UdpDatagram("device", DEVICE[version], 5555, REMOTE[version], 53, payload, packet)
        ]
        assert type(events[0].payload) is type(events[0].packet) is bytes
    assert not wire.dropped()


@VERSIONS
def test_a_datagram_after_options(version: int, wire: Any) -> None:
    wrapped = {4: with_router_alert, 6: with_hop_by_hop}[version](datagram(version))
    (event,) = wire.receive(wrapped + bytes(5))
    assert event == UdpDatagram(
        "device", DEVICE[version], 5555, REMOTE[version], 53, b"question", wrapped
    )


@VERSIONS
def test_a_datagram_in_fragments(version: int, wire: Any) -> None:
    packet = datagram(version, bytes(3000))
    *others, last = ip.split(packet, 1, 1280)
    for piece in others:
        assert wire.receive(piece) == []
    (event,) = wire.receive(last)
    assert event.payload == bytes(3000)
    assert event.packet == packet[:6] + event.packet[6:12] + packet[12:]
    assert not wire.dropped()


def v4_resummed(packet: bytes, at: int, value: bytes) -> bytes:
    changed = bytearray(packet)
    changed[at : at + len(value)] = value
    changed[10:12] = bytes(2)
    changed[10:12] = checksum(changed[:20]).to_bytes(2)
    return bytes(changed)


@VERSIONS
@pytest.mark.parametrize("change", [-9, -1, 1, 100])
def test_the_udp_length_is_exact(version: int, change: int, wire: Any) -> None:
    packet = bytearray(datagram(version))
    at = {4: 24, 6: 44}[version]
    packet[at : at + 2] = (16 + change).to_bytes(2)
    assert wire.receive(bytes(packet)) == []
    assert wire.dropped() == {"udp length": 1}


@VERSIONS
@pytest.mark.parametrize("size", [0, 4, 7])
def test_a_cut_udp_header(version: int, size: int, wire: Any) -> None:
    assert wire.receive(packet_of(version, UDP, bytes(size))) == []
    assert wire.dropped() == {"udp length": 1}


@VERSIONS
def test_port_zero(version: int, wire: Any) -> None:
    packet = udp.build((DEVICE[version], 5555), (REMOTE[version], 0), b"")
    assert wire.receive(packet) == []
    assert wire.dropped() == {"udp port": 1}


def test_a_wrong_header_checksum(wire: Any) -> None:
    packet = bytearray(datagram(4))
    packet[10] ^= 1
    assert wire.receive(bytes(packet)) == []
    assert wire.dropped() == {"header checksum": 1}
    assert wire.sent() == []


@pytest.mark.parametrize("packet", [b"", b"\x45", bytes(28), b"\x45" + bytes(40)])
def test_what_is_no_packet(packet: bytes, wire: Any) -> None:
    assert wire.receive(packet) == []
    assert sum(wire.dropped().values()) == 1


MULTICAST = {4: bytes([224, 0, 0, 251]), 6: bytes.fromhex("ff02") + bytes(13) + b"\xfb"}


@pytest.mark.parametrize(
    ("version", "destination", "reason"),
    [
        (4, MULTICAST[4], "multicast"),
        (4, bytes([239, 255, 255, 250]), "multicast"),
        (4, b"\xff" * 4, "multicast"),
        (4, bytes([10, 90, 255, 255]), "multicast"),
        (4, DEVICE[4], "martian"),
        (6, MULTICAST[6], "multicast"),
        (6, DEVICE[6], "martian"),
    ],
)
def test_destinations(version: int, destination: bytes, reason: str, wire: Any) -> None:
    for data in (
        datagram(version, destination=destination),
        ping(version, destination),
        ip.build_header(DEVICE[version], destination, TCP, 20) + bytes(20),
        ip.build_header(DEVICE[version], destination, 99, 20) + bytes(20),
    ):
        assert wire.receive(data) == []
    assert wire.dropped() == {reason: 4}
    assert wire.sent() == []
    assert wire.tcp.calls == [("flush", 0.0)]


@pytest.mark.parametrize(
    "destination",
    [
        bytes([127, 0, 0, 1]),
        bytes([169, 254, 169, 254]),
        bytes([169, 1, 1, 1]),
        bytes(15) + b"\1",
        bytes.fromhex("fe80") + bytes(14),
    ],
)
def test_other_destinations_are_the_policy_s_business(destination: bytes, wire: Any) -> None:
    version = 4 if len(destination) == 4 else 6
    (event,) = wire.receive(datagram(version, destination=destination))
    assert event.destination == destination


SOURCES = [
    bytes(4),
    bytes([127, 0, 0, 1]),
    bytes([169, 254, 1, 1]),
    MULTICAST[4],
    b"\xff" * 4,
    bytes(16),
    bytes(15) + b"\1",
    MULTICAST[6],
    bytes(10) + b"\xff\xff" + DEVICE[4],
]


@pytest.mark.parametrize("source", SOURCES)
def test_sources(source: bytes, wire: Any) -> None:
    version = 4 if len(source) == 4 else 6
    assert wire.receive(datagram(version, source=source)) == []
    assert wire.dropped() == {"martian": 1}


@pytest.mark.parametrize("source", SOURCES)
def test_sources_on_a_test_bench(source: bytes) -> None:
    bench = stack.Stack(loopback=True)
    version = 4 if len(source) == 4 else 6
    bench.receive("device", memoryview(datagram(version, source=source)), 0.0)
    is_loopback = source in (bytes([127, 0, 0, 1]), bytes(15) + b"\1")
    assert len(bench.events()) == is_loopback


# --- TCP ---


@VERSIONS
def test_a_segment_goes_to_tcp_without_its_padding(version: int, wire: Any) -> None:
    packet = packet_of(version, TCP, bytes([21, 179, 0, 80]) + bytes(16))
    assert wire.receive(packet + bytes(9), now=3.0) == []
    assert wire.tcp.calls == [("receive", "device", packet, ip.decode(packet), 3.0)]


def test_events_of_tcp_come_along(wire: Any) -> None:
    wire.tcp.pending = ["request"]
    assert wire.receive(datagram(4))[1:] == ["request"]
    assert wire.stack.take_ready() == ["ready"]
    assert wire.stack.connect("device", ("s", 1), ("d", 2), 3.0) == "connection"


# --- other protocols and bad headers ---


@pytest.mark.parametrize(
    ("version", "protocol"), [(4, 0), (4, 41), (4, 47), (4, ICMPV6), (6, ICMP), (6, 50), (6, 255)]
)
def test_an_unknown_protocol_is_told(version: int, protocol: int, wire: Any) -> None:
    packet = packet_of(version, protocol, bytes(20))
    assert wire.receive(packet) == []
    assert wire.sent() == [icmp.unreachable(packet, Unreachable.PROTOCOL, None)]
    assert wire.dropped() == {"unknown protocol": 1}


def test_an_unknown_option_is_told(wire: Any) -> None:
    payload = bytes([UDP, 0, 0xC7, 4]) + bytes(12)
    packet = ip.ipv6_header(DEVICE[6], REMOTE[6], HOP_BY_HOP, len(payload)) + payload
    wire.receive(packet)
    (error,) = wire.sent()
    assert error == icmp.parameter_problem(packet, ip.ParameterProblem(2, 42), GATEWAY[6])
    assert ip.decode(error).source == GATEWAY[6]
    assert wire.dropped() == {"unknown option": 1}


def test_nothing_is_forwarded(wire: Any) -> None:
    payload = bytes([UDP, 2, 0, 1]) + bytes(4) + GATEWAY[6] + bytes(8)
    wire.receive(ip.ipv6_header(DEVICE[6], REMOTE[6], ROUTING, len(payload)) + payload)
    (error,) = wire.sent()
    assert ip.decode(error).destination == DEVICE[6]
    assert wire.dropped() == {"routing header": 1}


def test_a_fragment_past_the_longest_datagram_is_told(wire: Any) -> None:
    payload = ip.fragment_header(UDP, 65528, False, 1) + bytes(16)
    wire.receive(ip.ipv6_header(DEVICE[6], REMOTE[6], FRAGMENT, len(payload)) + payload)
    assert len(wire.sent()) == 1
    assert wire.dropped() == {"fragments too long": 1}


def test_problems_are_told_at_a_bounded_rate(wire: Any) -> None:
    payload = bytes([UDP, 0, 0xC7, 4]) + bytes(12)
    packet = ip.ipv6_header(DEVICE[6], REMOTE[6], HOP_BY_HOP, len(payload)) + payload
    for _ in range(200):
        wire.receive(packet)
    assert len(wire.sent()) == 50


# --- ICMP ---


@VERSIONS
def test_the_gateway_answers_pings_to_itself(version: int, wire: Any) -> None:
    assert wire.receive(ping(version, GATEWAY[version])) == []
    (reply,) = wire.sent()
    assert ip.decode(reply).source == GATEWAY[version]
    assert reply.endswith(b"\0\x07\0\x09abcd")


@VERSIONS
def test_the_proxy_answers_pings_to_others(version: int, wire: Any) -> None:
    packet = ping(version, REMOTE[version])
    (request,) = wire.receive(packet + bytes(3))
    assert request == EchoRequest("device", DEVICE[version], REMOTE[version], 7, 9, b"abcd", packet)
    assert wire.sent() == []
    wire.stack.send_echo_reply(request)
    assert wire.sent() == [icmp.echo_reply(request)]


@VERSIONS
def test_a_long_ping_is_answered_in_fragments(version: int, wire: Any) -> None:
    for piece in ip.split(ping(version, GATEWAY[version], bytes(3000)), 1, 1280):
        wire.receive(piece)
    replies = wire.sent()
    assert len(replies) == 3
    assert all(len(reply) <= 1280 for reply in replies)
    assert ip.decode(replies[0]).protocol == {4: ICMP, 6: ICMPV6}[version]


@VERSIONS
@pytest.mark.parametrize("size", [0, 1, 7])
def test_a_cut_icmp_header(version: int, size: int, wire: Any) -> None:
    protocol = {4: ICMP, 6: ICMPV6}[version]
    assert wire.receive(packet_of(version, protocol, bytes(size))) == []
    assert wire.dropped() == {"icmp length": 1}


@pytest.mark.parametrize("kind", [130, 133, 134, 135, 136, 137, 143])
def test_neighbours_and_routers_are_not_for_tunnels(kind: int, wire: Any) -> None:
    assert wire.receive(packet_of(6, ICMPV6, bytes([kind]) + bytes(23))) == []
    assert wire.dropped() == {"neighbour discovery": 1}
    assert wire.sent() == []


@pytest.mark.parametrize(("version", "kind"), [(4, 0), (4, 5), (4, 13), (6, 129), (6, 200), (6, 9)])
def test_other_icmp_is_dropped(version: int, kind: int, wire: Any) -> None:
    protocol = {4: ICMP, 6: ICMPV6}[version]
    assert wire.receive(packet_of(version, protocol, bytes([kind]) + bytes(23))) == []
    assert wire.dropped() == {"icmp": 1}
    assert wire.sent() == []


def port_unreachable(version: int, quoted: bytes) -> bytes:
    kind, code = {4: (3, 3), 6: (1, 4)}[version]
    rest = bytes(4) + quoted
    return icmp.build_message(DEVICE[version], REMOTE[version], kind, code, rest)


@VERSIONS
def test_an_error_about_a_datagram_is_an_event(version: int, wire: Any) -> None:
    ours = udp.build((REMOTE[version], 53), (DEVICE[version], 5555), b"answer")
    (error,) = wire.receive(port_unreachable(version, ours))
    assert isinstance(error, IcmpError)
    assert error.kind is IcmpErrorKind.PORT_UNREACHABLE
    assert error.key == ip.decode(datagram(version)).key
    assert (error.device, error.remote) == ((DEVICE[version], 5555), (REMOTE[version], 53))


@VERSIONS
def test_an_error_about_a_segment_goes_to_tcp(version: int, wire: Any) -> None:
    segment = bytes([0, 80, 21, 179]) + (1234).to_bytes(4) + bytes(12)
    ours = ip.build_header(REMOTE[version], DEVICE[version], TCP, 20) + segment
    assert wire.receive(port_unreachable(version, ours)) == []
    ((name, key, error),) = wire.tcp.calls[:1]
    assert name == "icmp_error"
    assert key == error.key == DEVICE[version] + REMOTE[version] + bytes([21, 179, 0, 80])
    assert (error.link, error.sequence) == ("device", 1234)


@VERSIONS
def test_send_unreachable(version: int, wire: Any) -> None:
    (event,) = wire.receive(datagram(version))
    wire.stack.send_unreachable("device", event.packet, Unreachable.PROHIBITED, 0.0)
    (error,) = wire.sent()
    assert error == icmp.unreachable(event.packet, Unreachable.PROHIBITED, GATEWAY[version])


def test_errors_are_sent_at_a_bounded_rate(wire: Any) -> None:
    for number in range(200):
        wire.stack.send_unreachable("device", datagram(4), Unreachable.PORT, number * 1e-6)
    assert len(wire.sent()) == 50
    assert wire.dropped() == {"icmp error rate": 150}
    wire.stack.send_unreachable("device", datagram(4), Unreachable.PORT, 1.0)
    assert len(wire.sent()) == 1


@pytest.mark.parametrize("original", [b"", bytes(4), port_unreachable(4, datagram(4))])
def test_errors_that_may_not_be_sent(original: bytes, wire: Any) -> None:
    wire.stack.send_unreachable("device", original, Unreachable.PORT, 0.0)
    assert wire.sent() == []
    assert wire.dropped() == {"icmp error not allowed": 1}


# --- sending ---


@VERSIONS
def test_send_udp(version: int, wire: Any) -> None:
    source, destination = (REMOTE[version], 53), (DEVICE[version], 5555)
    wire.stack.send_udp("device", source, destination, b"answer", 0.0, fragment=False)
    assert wire.sent() == [udp.build(source, destination, b"answer")]


@VERSIONS
def test_what_is_too_long_is_cut_if_it_may_be(version: int, wire: Any) -> None:
    source, destination = (REMOTE[version], 53), (DEVICE[version], 5555)
    fits = 1280 - {4: 28, 6: 48}[version]
    wire.stack.send_udp("device", source, destination, bytes(fits), 0.0, fragment=False)
    assert [len(packet) for packet in wire.sent()] == [1280]
    wire.stack.send_udp("device", source, destination, bytes(fits + 1), 0.0, fragment=False)
    assert wire.sent() == []
    assert wire.dropped() == {"udp needs fragments": 1}
    wire.stack.send_udp("device", source, destination, bytes(fits + 1), 0.0, fragment=True)
    wire.stack.send_udp("device", source, destination, bytes(fits + 1), 0.0, fragment=True)
    fragments = [ip.decode(packet).fragment for packet in wire.sent()]
    identifications = [fragment and fragment.identification for fragment in fragments]
    assert identifications == [1, 1, 2, 2]


@VERSIONS
def test_the_longest_datagram(version: int, wire: Any) -> None:
    source, destination = (REMOTE[version], 53), (DEVICE[version], 5555)
    for extra in (0, 1):
        payload = bytes(udp.MAX_PAYLOAD + extra)
        wire.stack.send_udp("device", source, destination, payload, 0.0, fragment=True)
    pieces = wire.sent()
    assert wire.dropped() == {"udp too long": 1}
    # What one stack cuts, another puts together.
    events = [event for piece in pieces for event in wire.receive(piece, link="other")]
    assert [event.payload for event in events] == [bytes(udp.MAX_PAYLOAD)]


def test_flush_keeps_the_order_and_tcp_comes_last(wire: Any, sink: Any) -> None:
    for number in range(4):
        link, destination = "ab"[number & 1], (DEVICE[4], number)
        wire.stack.send_udp(link, (REMOTE[4], 53), destination, b"", 0.0, fragment=False)
    wire.stack.send_unreachable("a", datagram(4), Unreachable.PORT, 0.0)
    wire.stack.flush(1.0, sink)
    assert [link for link, _ in sink.packets] == ["a", "b", "a", "b", "a", "tcp"]
    assert wire.tcp.calls == [("flush", 1.0)]
    wire.stack.flush(2.0, sink)
    assert [link for link, _ in sink.packets][6:] == ["tcp"]


# --- bounds ---


@VERSIONS
def test_events_nobody_takes(version: int, wire: Any) -> None:
    for _ in range(stack.MAX_EVENTS + 3):
        wire.stack.receive("device", memoryview(datagram(version)), 0.0)
    assert len(wire.stack.events()) == stack.MAX_EVENTS
    assert wire.dropped() == {"event limit": 3}


def test_packets_nobody_flushes(wire: Any) -> None:
    source, destination = (REMOTE[4], 53), (DEVICE[4], 5555)
    for _ in range(stack.MAX_QUEUED_PACKETS + 1):
        wire.stack.send_udp("device", source, destination, b"", 0.0, fragment=False)
    wire.stack.send_udp("device", source, destination, bytes(2000), 0.0, fragment=True)
    assert wire.dropped() == {"queue limit": 3}
    assert len(wire.sent()) == stack.MAX_QUEUED_PACKETS


# --- links and time ---


def test_drop_link(wire: Any, sink: Any) -> None:
    first, last = ip.split(datagram(4, bytes(2000)), 1, 1280)
    for link in "ab":
        wire.stack.receive(link, memoryview(first), 0.0)
        wire.stack.receive(link, memoryview(datagram(4)), 0.0)
        wire.stack.send_udp(link, (REMOTE[4], 1), (DEVICE[4], 2), b"", 0.0, fragment=False)
    wire.stack.drop_link("a")
    assert [event.link for event in wire.stack.events()] == ["b"]
    wire.stack.flush(0.0, sink)
    assert [link for link, _ in sink.packets] == ["b", "tcp"]
    assert wire.receive(last, link="a") == []
    assert len(wire.receive(last, link="b")) == 1
    assert ("drop_link", "a") in wire.tcp.calls


@pytest.mark.parametrize(
    ("theirs", "fragment", "expected"),
    [
        (None, False, None),
        (5.0, False, 5.0),
        (None, True, 31.0),
        (5.0, True, 5.0),
        (40.0, True, 31.0),
    ],
)
def test_deadline(theirs: float | None, fragment: bool, expected: float | None, wire: Any) -> None:
    wire.tcp.next_deadline = theirs
    if fragment:
        wire.receive(next(ip.split(datagram(4, bytes(2000)), 1, 1280)), now=1.0)
    assert wire.stack.deadline() == expected


@VERSIONS
def test_the_sender_of_a_first_fragment_is_told_that_time_is_up(version: int, wire: Any) -> None:
    first, second = ip.split(datagram(version, bytes(2000)), 1, 1280)
    wire.receive(first, now=1.0)
    wire.receive(second, now=1.0, link="other")
    wire.stack.handle_timer(31.0)
    assert wire.sent() == [icmp.reassembly_timeout(first, GATEWAY[version])]
    assert wire.dropped() == {"reassembly timeout": 2}
    assert wire.tcp.calls[0] == ("handle_timer", 31.0)


# --- anything ---


@given(
    st.lists(st.tuples(st.sampled_from(["", "45", "60", "4500", "6000"]), st.binary(max_size=150)))
)
def test_arbitrary_packets_never_raise(packets: list[tuple[str, bytes]]) -> None:
    device = stack.Stack([GATEWAY[4], GATEWAY[6]])
    for now, (start, rest) in enumerate(packets):
        device.receive("device", memoryview(bytes.fromhex(start) + rest), float(now))
    device.events()
    device.handle_timer(1000.0)
    assert device.deadline() is None
