"""IPv4 and IPv6 headers: what is read, what is refused and with which answer."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from lopower.netstack import ip
from lopower.netstack.checksum import checksum, ones_sum
from lopower.netstack.ip import (
    DESTINATION_OPTIONS,
    FRAGMENT,
    HOP_BY_HOP,
    ICMPV6,
    NO_NEXT_HEADER,
    ROUTING,
    TCP,
    UDP,
    Fragment,
    IpError,
    IpHeader,
    ParameterProblem,
)

A4, B4 = bytes([10, 90, 0, 2]), bytes([192, 0, 2, 7])
A6 = bytes.fromhex("fd90") + bytes(13) + b"\x02"
B6 = bytes.fromhex("20010db8") + bytes(11) + b"\x07"
PORTS = bytes.fromhex("15b30035")

v4_addresses = st.binary(min_size=4, max_size=4)
v6_addresses = st.binary(min_size=16, max_size=16)


def v4_with_options(options: bytes, data: bytes = PORTS + bytes(4)) -> bytes:
    header = bytearray(ip.ipv4_header(A4, B4, UDP, len(options) + len(data)) + options)
    header[0] = 0x40 | len(header) >> 2
    header[10:12] = bytes(2)
    header[10:12] = checksum(header).to_bytes(2)
    return bytes(header) + data


def v6(following: int, *headers: bytes, data: bytes = PORTS + bytes(4)) -> bytes:
    """A packet with extension headers, whose Next Header fields are in place."""
    payload = b"".join(headers) + data
    return ip.ipv6_header(A6, B6, following, len(payload)) + payload


def options(following: int, content: bytes = b"\x01\x04" + bytes(4)) -> bytes:
    """Hop-by-hop or destination options; the default is a PadN."""
    length = len(content) + 2
    assert not length & 7
    return bytes([following, length // 8 - 1]) + content


def refused(packet: bytes) -> tuple[str, ParameterProblem | None]:
    assert ip.parse(packet) is None
    with pytest.raises(IpError) as caught:
        ip.decode(packet)
    return caught.value.reason, caught.value.problem


# --- IPv4 ---


def test_a_plain_v4_packet() -> None:
    packet = ip.ipv4_header(A4, B4, UDP, 8) + PORTS + bytes(4)
    assert ip.parse(packet) == IpHeader(4, A4, B4, UDP, 20, 28, packet[12:24], 9)
    assert ip.parse(memoryview(packet + bytes(4))) == ip.parse(packet)


@given(v4_addresses, v4_addresses, st.integers(0, 255), st.binary(max_size=80))
def test_v4_round_trip(source: bytes, destination: bytes, protocol: int, data: bytes) -> None:
    packet = ip.build_header(source, destination, protocol, len(data)) + data
    header = ip.decode(packet)
    assert (header.version, header.source, header.destination) == (4, source, destination)
    assert (header.protocol, header.header_length, header.total_length) == (
        protocol,
        20,
        len(packet),
    )
    assert packet[header.protocol_at] == protocol
    assert header.fragment is None
    has_ports = protocol in (TCP, UDP) and len(data) >= 4
    assert header.key == (packet[12:24] if has_ports else source + destination)


@given(v4_addresses, v4_addresses, st.integers(0, 65515), st.integers(0, 65535))
def test_v4_header_checksum(source: bytes, destination: bytes, length: int, word: int) -> None:
    header = ip.ipv4_header(source, destination, TCP, length, identification=word)
    assert ones_sum(header) == 0


@given(st.integers(0, 19), st.integers(1, 255))
def test_any_changed_byte_of_a_v4_header_is_noticed(at: int, change: int) -> None:
    packet = bytearray(ip.ipv4_header(A4, B4, UDP, 8) + bytes(8))
    packet[at] ^= change
    header = ip.parse(packet)
    # The one thing a ones-complement sum cannot see is 0x0000 for 0xffff, which is not here.
    assert header is None


def test_v4_key_is_put_together_where_there_are_options() -> None:
    header = ip.decode(v4_with_options(b"\x94\x04\0\0"))  # router alert
    assert header.key == A4 + B4 + PORTS
    assert (header.header_length, header.total_length) == (24, 32)


@pytest.mark.parametrize(
    "harmless",
    [b"\x01\x01\x01\x00", b"\x01\x07\x03\x04", b"\0\x83\0\0", b"\x44\x04\x05\x00", b"\x07\x04\0\0"],
)
def test_v4_options_are_skipped(harmless: bytes) -> None:
    assert ip.decode(v4_with_options(harmless)).protocol == UDP


@pytest.mark.parametrize("kind", [131, 137])
def test_source_routes_are_refused(kind: int) -> None:
    assert refused(v4_with_options(bytes([1, kind, 7, 4]) + B4)) == ("source route", None)


@pytest.mark.parametrize("bad", [b"\x94\x00\0\0", b"\x94\x01\0\0", b"\x94\x05\0\0", b"\1\1\1\x94"])
def test_options_that_do_not_fit_are_refused(bad: bytes) -> None:
    assert refused(v4_with_options(bad)) == ("options", None)


def resummed(packet: bytearray) -> bytes:
    packet[10:12] = bytes(2)
    packet[10:12] = checksum(packet[:20]).to_bytes(2)
    return bytes(packet)


@pytest.mark.parametrize("first", [0x40, 0x44, 0x4F])
def test_a_header_longer_than_the_packet_or_shorter_than_a_header(first: int) -> None:
    packet = bytearray(ip.ipv4_header(A4, B4, UDP, 8) + bytes(8))
    packet[0] = first
    assert refused(resummed(packet))[0] == "length"


@pytest.mark.parametrize("total", [0, 19, 29, 65535])
def test_a_total_length_that_is_not_there(total: int) -> None:
    packet = bytearray(ip.ipv4_header(A4, B4, UDP, 8) + bytes(8))
    packet[2:4] = total.to_bytes(2)
    assert refused(resummed(packet))[0] == "length"


@pytest.mark.parametrize(
    ("flags", "fragment"),
    [
        (0x0000, None),
        (0x4000, None),
        (0x8000, None),
        (0x2000, Fragment(77, 0, True, 9)),
        (0x2001, Fragment(77, 8, True, 9)),
        (0x1FFF, Fragment(77, 65528, False, 9)),
    ],
)
def test_v4_fragments(flags: int, fragment: Fragment | None) -> None:
    header = ip.ipv4_header(A4, B4, UDP, 8, identification=77, flags=flags)
    parsed = ip.decode(header + PORTS + bytes(4))
    assert parsed.fragment == fragment
    assert parsed.key == A4 + B4 + (PORTS if fragment is None else b"")


@pytest.mark.parametrize("packet", [b"", b"\x45", b"\x45" + bytes(18), b"\x60" + bytes(38)])
def test_too_short(packet: bytes) -> None:
    assert refused(packet) == ("truncated", None)


@pytest.mark.parametrize("first", [0x00, 0x55, 0x75, 0xF0])
def test_other_versions(first: int) -> None:
    assert refused(bytes([first]) + bytes(60)) == ("version", None)


# --- IPv6 ---


def test_a_plain_v6_packet() -> None:
    packet = v6(UDP)
    assert ip.parse(packet) == IpHeader(6, A6, B6, UDP, 40, 48, packet[8:44], 6)
    assert ip.parse(packet + bytes(8)) == ip.parse(packet)
    assert packet[:4] == b"\x60\0\0\0"


@given(
    v6_addresses,
    v6_addresses,
    st.integers(0, 255).filter(lambda value: value not in (0, 43, 44, 59, 60)),
    st.binary(max_size=80),
)
def test_v6_round_trip(source: bytes, destination: bytes, protocol: int, data: bytes) -> None:
    packet = ip.build_header(source, destination, protocol, len(data)) + data
    header = ip.decode(packet)
    has_ports = protocol in (TCP, UDP) and len(data) >= 4
    key = packet[8:44] if has_ports else source + destination
    assert header == IpHeader(6, source, destination, protocol, 40, len(packet), key, 6)


def test_extension_headers_are_skipped_and_the_key_put_together() -> None:
    routing = bytes([DESTINATION_OPTIONS, 2, 0, 0]) + bytes(20)  # no segments left
    packet = v6(HOP_BY_HOP, options(ROUTING), routing, options(TCP, b"\x01\x0c" + bytes(12)))
    header = ip.decode(packet)
    assert (header.protocol, header.header_length) == (TCP, 40 + 8 + 24 + 16)
    assert header.key == A6 + B6 + PORTS
    assert packet[header.protocol_at] == TCP
    assert header.protocol_at == 40 + 8 + 24


def test_an_atomic_fragment_is_no_fragment() -> None:
    header = ip.decode(v6(FRAGMENT, ip.fragment_header(UDP, 0, False, 5)))
    assert header.fragment is None
    assert (header.protocol, header.header_length) == (UDP, 48)
    assert header.key == A6 + B6 + PORTS


@pytest.mark.parametrize(("offset", "more"), [(0, True), (8, True), (1232, False), (65528, False)])
def test_v6_fragments(offset: int, more: bool) -> None:
    header = ip.decode(
        v6(HOP_BY_HOP, options(FRAGMENT), ip.fragment_header(UDP, offset, more, 0xFFFFFFFF))
    )
    assert header.fragment == Fragment(0xFFFFFFFF, offset, more, 40)
    assert (header.protocol, header.header_length, header.protocol_at) == (UDP, 56, 48)
    assert header.key == A6 + B6


def test_a_later_fragment_is_not_looked_into() -> None:
    fragment = ip.fragment_header(DESTINATION_OPTIONS, 8, False, 5)
    header = ip.decode(v6(FRAGMENT, fragment, data=b"\xff" * 16))
    assert (header.protocol, header.header_length) == (DESTINATION_OPTIONS, 48)


def test_a_first_fragment_holds_the_whole_header_chain() -> None:
    fragment = ip.fragment_header(DESTINATION_OPTIONS, 0, True, 5)
    assert refused(v6(FRAGMENT, fragment, data=b"\x11\x01" + bytes(6)))[0] == "truncated"
    fits = v6(FRAGMENT, fragment, options(UDP))
    assert ip.decode(fits).header_length == 48
    assert ip.decode(fits).protocol == DESTINATION_OPTIONS


def test_a_fragment_within_a_fragment() -> None:
    first = ip.fragment_header(FRAGMENT, 0, True, 5)
    packet = v6(FRAGMENT, first, ip.fragment_header(UDP, 0, True, 6))
    assert refused(packet)[0] == "nested fragment"


def test_a_fragment_of_uneven_length_points_at_the_payload_length() -> None:
    packet = v6(FRAGMENT, ip.fragment_header(UDP, 0, True, 5), data=bytes(9))
    assert refused(packet) == ("fragment length", ParameterProblem(0, 4))


@pytest.mark.parametrize("kind", [0, 2, 3, 4, 253])
def test_a_routing_header_with_segments_left(kind: int) -> None:
    packet = v6(ROUTING, bytes([UDP, 0, kind, 1]) + bytes(4))
    assert refused(packet) == ("routing header", ParameterProblem(0, 42))


@pytest.mark.parametrize(
    ("kind", "problem"),
    [
        (0x3E, ()),
        (0x7E, ("unknown option", None)),
        (0xBE, ("unknown option", ParameterProblem(2, 44, True))),
        (0xFE, ("unknown option", ParameterProblem(2, 44, False))),
        (ip.ROUTER_ALERT, ()),
        (ip.JUMBO_PAYLOAD, ("jumbogram", ParameterProblem(2, 44, False))),
    ],
)
@pytest.mark.parametrize("header", [HOP_BY_HOP, DESTINATION_OPTIONS])
def test_the_action_bits_of_unknown_options(
    header: int, kind: int, problem: tuple[str, ParameterProblem | None] | tuple[()]
) -> None:
    packet = v6(header, options(UDP, bytes([0, 0, kind, 2, 0, 0])))
    if problem:
        assert refused(packet) == problem
    else:
        assert ip.decode(packet).protocol == UDP


@pytest.mark.parametrize("content", [b"\1\5" + bytes(4), bytes(5) + b"\1", b"\x3e\xff" + bytes(4)])
def test_v6_options_that_do_not_fit(content: bytes) -> None:
    assert refused(v6(HOP_BY_HOP, options(UDP, content))) == ("options", None)


def test_hop_by_hop_comes_first_or_not_at_all() -> None:
    packet = v6(DESTINATION_OPTIONS, options(HOP_BY_HOP), options(UDP))
    assert refused(packet) == ("hop-by-hop", ParameterProblem(1, 40))


def test_no_next_header() -> None:
    assert refused(v6(NO_NEXT_HEADER, data=b"")) == ("no next header", None)
    assert refused(v6(DESTINATION_OPTIONS, options(NO_NEXT_HEADER))) == ("no next header", None)


def test_a_jumbogram() -> None:
    packet = ip.ipv6_header(A6, B6, HOP_BY_HOP, 0) + options(UDP, b"\xc2\4\0\1\0\0") + bytes(99)
    assert refused(packet) == ("jumbogram", None)


def test_a_long_chain_is_not_walked() -> None:
    chain = [options(DESTINATION_OPTIONS)] * (ip.MAX_EXTENSION_HEADERS - 1)
    assert ip.decode(v6(DESTINATION_OPTIONS, *chain, options(UDP))).protocol == UDP
    longer = v6(DESTINATION_OPTIONS, *chain, options(DESTINATION_OPTIONS), options(UDP))
    assert refused(longer) == ("extension headers", None)


@pytest.mark.parametrize("following", [HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS])
def test_an_extension_header_past_the_end(following: int) -> None:
    assert refused(v6(following, data=bytes(7)))[0] == "truncated"
    if following != FRAGMENT:
        assert refused(v6(following, data=bytes([UDP, 1]) + bytes(6)))[0] == "truncated"


def test_a_payload_length_that_is_not_there() -> None:
    assert refused(v6(UDP)[:-1]) == ("length", None)


# --- both ---


@given(st.binary(max_size=200))
@example(b"\x45" + bytes(60))
def test_arbitrary_bytes_never_raise(data: bytes) -> None:
    for packet in (data, b"\x45" + data, b"\x60" + data):
        header = ip.parse(packet)
        if header is not None:
            assert header.header_length <= header.total_length <= len(packet)


extension_like = st.lists(
    st.tuples(
        st.sampled_from([HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS, UDP, 59]),
        st.binary(max_size=24),
    ),
    max_size=6,
)


@given(st.sampled_from([HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS]), extension_like)
def test_arbitrary_extension_headers_never_raise(
    first: int, headers: list[tuple[int, bytes]]
) -> None:
    payload = b"".join(bytes([kind, len(body) // 8]) + body for kind, body in headers)
    packet = ip.ipv6_header(A6, B6, first, len(payload)) + payload
    header = ip.parse(packet)
    if header is not None:
        assert 40 < header.header_length <= header.total_length == len(packet)
        assert packet[header.protocol_at] == header.protocol


@pytest.mark.parametrize(
    "address",
    [
        "0.0.0.0",
        "0.1.2.3",
        "127.0.0.1",
        "169.254.169.254",
        "224.0.0.251",
        "239.255.255.250",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "::ffff:10.0.0.1",
        "fe80::1",
        "febf::1",
        "ff02::fb",
    ],
)
def test_martians(address: str) -> None:
    assert ip.is_martian(ip_address(address).packed)


@pytest.mark.parametrize(
    "address", ["1.0.0.0", "126.255.255.255", "169.253.0.1", "169.255.0.1", "223.255.255.255"]
)
def test_no_v4_martians(address: str) -> None:
    assert not ip.is_martian(ip_address(address).packed)


@pytest.mark.parametrize("address", ["::2", "64:ff9b::1", "2001:db8::1", "fd7a:115c:a1e0::1"])
def test_no_v6_martians(address: str) -> None:
    assert not ip.is_martian(ip_address(address).packed)


@given(st.ip_addresses())
def test_multicast_is_what_python_says_it_is(address: object) -> None:
    packed = address.packed  # type: ignore[attr-defined]
    limited_broadcast = packed == b"\xff\xff\xff\xff"
    expected = address.is_multicast or limited_broadcast  # type: ignore[attr-defined]
    assert ip.is_multicast(packed) == expected
    if expected or address.is_loopback or address.is_unspecified:  # type: ignore[attr-defined]
        assert ip.is_martian(packed)


@given(
    st.sampled_from([(A4, B4), (A6, B6)]),
    st.binary(min_size=1, max_size=5000),
    st.integers(0, 2**33),
    st.sampled_from([576, 1280, 1281, 1500]),
    st.sampled_from([UDP, ICMPV6]),
)
def test_split(
    addresses: tuple[bytes, bytes], data: bytes, identification: int, mtu: int, protocol: int
) -> None:
    packet = ip.build_header(*addresses, protocol, len(data)) + data
    together = bytearray()
    pieces = [*ip.split(packet, identification, mtu)]
    for piece in pieces:
        assert len(piece) <= mtu
        header = ip.decode(piece)
        fragment = header.fragment
        if len(pieces) > 1 or header.version == 4:
            offset = fragment.offset if fragment else 0
            assert offset == len(together)
            assert (fragment is not None and fragment.more) == (piece is not pieces[-1])
        assert header.protocol == protocol
        together += piece[header.header_length :]
    assert together == data
