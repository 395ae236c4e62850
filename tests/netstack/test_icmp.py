"""ICMP against the tables of RFC 792, RFC 1122, RFC 1812 and RFC 4443."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.netstack import icmp, ip, udp
from lopower.netstack.checksum import ones_sum, pseudo_header_sum
from lopower.netstack.events import EchoRequest, IcmpError, IcmpErrorKind, Unreachable
from lopower.netstack.ip import ICMP, ICMPV6, TCP, UDP, ParameterProblem

DEVICE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
REMOTE = {4: bytes([192, 0, 2, 7]), 6: bytes.fromhex("20010db8") + bytes(11) + b"\x07"}
GATEWAY = {4: bytes([10, 90, 0, 1]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x01"}
PROTOCOL = {4: ICMP, 6: ICMPV6}
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def from_device(version: int, payload: bytes = b"question") -> bytes:
    return udp.build((DEVICE[version], 5555), (REMOTE[version], 53), payload)


def to_device(version: int, protocol: int = UDP, payload: bytes = bytes(20)) -> bytes:
    ports = (53).to_bytes(2) + (5555).to_bytes(2)
    data = ports + payload
    return ip.build_header(REMOTE[version], DEVICE[version], protocol, len(data)) + data


def message(packet: bytes | None) -> bytes:
    """The ICMP message of a packet whose checksums are right."""
    assert packet is not None
    header = ip.decode(packet)
    assert header.protocol == PROTOCOL[header.version]
    data = packet[header.header_length :]
    total = ones_sum(data)
    if header.version == 6:
        total += pseudo_header_sum(header.source, header.destination, ICMPV6, len(data))
    assert total % 65535 == 0
    return data


# --- errors we send ---


@pytest.mark.parametrize(
    ("version", "reason", "kind", "code", "field"),
    [
        (4, Unreachable.NET, 3, 0, 0),
        (4, Unreachable.HOST, 3, 1, 0),
        (4, Unreachable.PROTOCOL, 3, 2, 0),
        (4, Unreachable.PORT, 3, 3, 0),
        (4, Unreachable.PROHIBITED, 3, 13, 0),
        (6, Unreachable.NET, 1, 0, 0),
        (6, Unreachable.HOST, 1, 3, 0),
        (6, Unreachable.PROTOCOL, 4, 1, 6),
        (6, Unreachable.PORT, 1, 4, 0),
        (6, Unreachable.PROHIBITED, 1, 1, 0),
    ],
)
def test_codes(version: int, reason: Unreachable, kind: int, code: int, field: int) -> None:
    original = from_device(version)
    packet = icmp.unreachable(original, reason, GATEWAY[version])
    data = message(packet)
    assert (data[0], data[1], int.from_bytes(data[4:8])) == (kind, code, field)
    assert data[8:] == original
    assert packet is not None
    header = ip.decode(packet)
    assert header.destination == DEVICE[version]
    of_the_destination = reason in (Unreachable.PORT, Unreachable.PROTOCOL)
    assert header.source == (REMOTE if of_the_destination else GATEWAY)[version]


@VERSIONS
def test_without_a_gateway_address_the_destination_speaks(version: int) -> None:
    packet = icmp.unreachable(from_device(version), Unreachable.NET, None)
    assert packet is not None
    assert ip.decode(packet).source == REMOTE[version]


@pytest.mark.parametrize(("version", "limit"), [(4, 576), (6, 1280)])
@pytest.mark.parametrize("size", [0, 500, 520, 521, 1204, 1205, 5000])
def test_the_quote_is_cut(version: int, limit: int, size: int) -> None:
    original = from_device(version, bytes(size))
    packet = icmp.unreachable(original, Unreachable.PORT, None)
    assert packet is not None
    header = 28 if version == 4 else 48
    assert len(packet) == min(limit, header + len(original))
    assert original.startswith(message(packet)[8:])


@VERSIONS
def test_padding_is_not_quoted(version: int) -> None:
    original = from_device(version)
    assert message(icmp.unreachable(original + bytes(9), Unreachable.PORT, None))[8:] == original


def icmp_packet(version: int, kind: int, rest: bytes = bytes(36)) -> bytes:
    return icmp.build_message(DEVICE[version], REMOTE[version], kind, 0, rest)


@pytest.mark.parametrize(
    ("version", "kind", "allowed"),
    [
        *((4, kind, False) for kind in (3, 4, 5, 11, 12, 40, 255)),
        *((4, kind, True) for kind in (0, 8, 13, 14)),
        *((6, kind, False) for kind in (0, 1, 2, 3, 4, 100, 127, 137)),
        *((6, kind, True) for kind in (128, 129, 139)),
    ],
)
def test_no_errors_about_errors(version: int, kind: int, allowed: bool) -> None:
    packet = icmp.unreachable(icmp_packet(version, kind), Unreachable.HOST, None)
    assert (packet is not None) == allowed


@VERSIONS
def test_no_error_about_an_icmp_without_a_type(version: int) -> None:
    packet = ip.build_header(DEVICE[version], REMOTE[version], PROTOCOL[version], 0)
    assert icmp.unreachable(packet, Unreachable.HOST, None) is None


@VERSIONS
def test_no_errors_about_later_fragments(version: int) -> None:
    first, second, *_ = ip.split(from_device(version, bytes(3000)), 1, 1280)
    assert icmp.unreachable(first, Unreachable.PORT, None) is not None
    assert icmp.unreachable(second, Unreachable.PORT, None) is None


@pytest.mark.parametrize(
    ("source", "destination"),
    [
        (DEVICE[4], bytes([224, 0, 0, 251])),
        (DEVICE[4], b"\xff" * 4),
        (bytes(4), REMOTE[4]),
        (bytes([127, 0, 0, 1]), REMOTE[4]),
        (bytes([239, 1, 1, 1]), REMOTE[4]),
        (DEVICE[6], bytes.fromhex("ff02") + bytes(13) + b"\xfb"),
        (bytes(16), REMOTE[6]),
    ],
)
def test_no_errors_about_multicast_or_to_nobody(source: bytes, destination: bytes) -> None:
    original = udp.build((source, 1), (destination, 2), b"")
    assert icmp.unreachable(original, Unreachable.PORT, None) is None
    assert icmp.reassembly_timeout(original, None) is None


@pytest.mark.parametrize("original", [b"", b"\x45", bytes(40), b"\x45" + bytes(40)])
def test_no_errors_about_what_is_no_packet(original: bytes) -> None:
    assert icmp.unreachable(original, Unreachable.PORT, None) is None


@pytest.mark.parametrize(("version", "kind"), [(4, 11), (6, 3)])
def test_reassembly_timeout(version: int, kind: int) -> None:
    first = next(ip.split(from_device(version, bytes(3000)), 1, 1280))
    packet = icmp.reassembly_timeout(first, GATEWAY[version])
    data = message(packet)
    assert data[:2] == bytes([kind, 1])
    assert first.startswith(data[8:])


MULTICAST_V6 = bytes.fromhex("ff02") + bytes(13) + b"\x01"


def test_parameter_problem() -> None:
    original = from_device(6)
    data = message(icmp.parameter_problem(original, ParameterProblem(2, 44), GATEWAY[6]))
    assert data[:2] == bytes([4, 2])
    assert int.from_bytes(data[4:8]) == 44
    assert data[8:] == original


@pytest.mark.parametrize(
    ("even", "gateway", "sent"),
    [(True, GATEWAY[6], True), (True, None, False), (False, GATEWAY[6], False)],
)
def test_only_one_kind_of_problem_is_told_about_multicast(
    even: bool, gateway: bytes | None, sent: bool
) -> None:
    original = udp.build((DEVICE[6], 1), (MULTICAST_V6, 2), b"")
    problem = ParameterProblem(2, 44, even)
    packet = icmp.parameter_problem(original, problem, gateway)
    assert (packet is not None) == sent


def test_no_parameter_problem_to_nobody() -> None:
    original = udp.build((bytes(16), 1), (REMOTE[6], 2), b"")
    assert icmp.parameter_problem(original, ParameterProblem(0, 4), GATEWAY[6]) is None


# --- echoes ---


@given(
    st.sampled_from([4, 6]), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=99)
)
def test_echo(version: int, identifier: int, sequence: int, payload: bytes) -> None:
    kind = {4: 8, 6: 128}[version]
    rest = identifier.to_bytes(2) + sequence.to_bytes(2) + payload
    packet = icmp.build_message(DEVICE[version], REMOTE[version], kind, 0, rest)
    request = icmp.parse_echo("link", memoryview(packet + bytes(3)), ip.decode(packet))
    expected = EchoRequest(
        "link", DEVICE[version], REMOTE[version], identifier, sequence, payload, packet
    )
    assert request == expected
    reply = icmp.echo_reply(request)
    data = message(reply)
    assert data[:2] == bytes([{4: 0, 6: 129}[version], 0])
    assert data[4:] == rest
    assert ip.decode(reply).source == REMOTE[version]
    assert ip.decode(reply).destination == DEVICE[version]


# --- errors we get ---


def error_from_device(version: int, kind: int, code: int, quoted: bytes, field: int = 0) -> bytes:
    rest = field.to_bytes(4) + quoted
    return icmp.build_message(DEVICE[version], REMOTE[version], kind, code, rest)


def parsed(packet: bytes) -> IcmpError | None:
    return icmp.parse_error("link", memoryview(packet), ip.decode(packet))


KINDS = IcmpErrorKind
CODES = [
    *((4, 3, code, KINDS.NET_UNREACHABLE) for code in (0, 6, 11)),
    *((4, 3, code, KINDS.HOST_UNREACHABLE) for code in (1, 5, 7, 8, 12)),
    (4, 3, 2, KINDS.PROTOCOL_UNREACHABLE),
    (4, 3, 3, KINDS.PORT_UNREACHABLE),
    (4, 3, 4, KINDS.TOO_BIG),
    *((4, 3, code, KINDS.PROHIBITED) for code in (9, 10, 13, 14, 15)),
    *((4, 11, code, KINDS.TIME_EXCEEDED) for code in (0, 1)),
    *((4, 12, code, KINDS.PARAMETER_PROBLEM) for code in (0, 1, 2)),
    (6, 1, 0, KINDS.NET_UNREACHABLE),
    *((6, 1, code, KINDS.PROHIBITED) for code in (1, 5, 6)),
    *((6, 1, code, KINDS.HOST_UNREACHABLE) for code in (2, 3)),
    (6, 1, 4, KINDS.PORT_UNREACHABLE),
    *((6, 2, code, KINDS.TOO_BIG) for code in (0, 1, 255)),
    *((6, 3, code, KINDS.TIME_EXCEEDED) for code in (0, 1)),
    *((6, 4, code, KINDS.PARAMETER_PROBLEM) for code in (0, 2, 3)),
    (6, 4, 1, KINDS.PROTOCOL_UNREACHABLE),
]


@pytest.mark.parametrize(("version", "kind", "code", "meaning"), CODES)
def test_what_errors_mean(version: int, kind: int, code: int, meaning: IcmpErrorKind) -> None:
    quoted = to_device(version)
    error = parsed(error_from_device(version, kind, code, quoted, field=1280))
    device, remote = DEVICE[version], REMOTE[version]
    assert error == IcmpError(
        "link",
        meaning,
        UDP,
        ip.decode(udp.build((device, 5555), (remote, 53), b"")).key,
        (device, 5555),
        (remote, 53),
        1280 if meaning is KINDS.TOO_BIG else 0,
        None,
    )


def test_all_other_types_and_codes_mean_nothing() -> None:
    known = {(version, kind, code) for version, kind, code, _ in CODES}
    for version in (4, 6):
        for kind in range(0, 128, 1):
            for code in (0, 1, 2, 3, 4, 7, 16, 255):
                if (version, kind) == (6, 2):
                    continue
                error = parsed(error_from_device(version, kind, code, to_device(version)))
                assert (error is not None) == ((version, kind, code) in known)


@VERSIONS
def test_the_sequence_number_of_a_quoted_segment(version: int) -> None:
    segment = to_device(version, TCP, (0xDEADBEEF).to_bytes(4) + bytes(12))
    kind = {4: 3, 6: 1}[version]
    error = parsed(error_from_device(version, kind, 1, segment))
    assert error is not None
    assert (error.protocol, error.sequence) == (TCP, 0xDEADBEEF)
    header = len(segment) - 20
    short = parsed(error_from_device(version, kind, 1, segment[: header + 7]))
    assert short is not None
    assert short.sequence is None
    assert parsed(error_from_device(version, kind, 1, segment[: header + 3])) is None


def test_the_mtu_of_v6_is_32_bits_that_of_v4_16() -> None:
    v4 = parsed(error_from_device(4, 3, 4, to_device(4), field=0xABCD0500))
    v6 = parsed(error_from_device(6, 2, 0, to_device(6), field=0x00010500))
    assert v4 is not None
    assert v6 is not None
    assert (v4.mtu, v6.mtu) == (0x500, 0x10500)


@VERSIONS
def test_fragments_in_quotes(version: int) -> None:
    whole = udp.build((REMOTE[version], 53), (DEVICE[version], 5555), bytes(3000))
    first, second, *_ = ip.split(whole, 1, 1280)
    kind = {4: 11, 6: 3}[version]
    error = parsed(error_from_device(version, kind, 1, first[:500]))
    assert error is not None
    assert error.device == (DEVICE[version], 5555)
    assert parsed(error_from_device(version, kind, 1, second[:500])) is None


@pytest.mark.parametrize("size", [0, 1, 19, 20, 23])
def test_short_quotes_v4(size: int) -> None:
    assert parsed(error_from_device(4, 3, 3, to_device(4)[:size])) is None


@pytest.mark.parametrize("size", [0, 1, 39, 40, 43])
def test_short_quotes_v6(size: int) -> None:
    assert parsed(error_from_device(6, 1, 4, to_device(6)[:size])) is None
    fragment = next(ip.split(to_device(6, UDP, bytes(2000)), 1, 1280))
    assert parsed(error_from_device(6, 1, 4, fragment[:47])) is None


@pytest.mark.parametrize(("version", "other"), [(4, 6), (6, 4)])
def test_quotes_of_what_we_never_send(version: int, other: int) -> None:
    kind = {4: 3, 6: 1}[version]
    assert parsed(error_from_device(version, kind, 1, to_device(other))) is None
    ping = icmp_packet(version, 8)
    assert parsed(error_from_device(version, kind, 1, ping)) is None


def test_an_error_too_short_for_its_header() -> None:
    packet = ip.ipv4_header(DEVICE[4], REMOTE[4], ICMP, 7) + bytes(7)
    assert parsed(packet) is None


@given(st.sampled_from([4, 6]), st.sampled_from([1, 2, 3, 4, 11, 12]), st.binary(max_size=120))
def test_arbitrary_errors_never_raise(version: int, kind: int, rest: bytes) -> None:
    packet = icmp.build_message(DEVICE[version], REMOTE[version], kind, 0, rest)
    error = parsed(packet)
    assert error is None or len(error.key) == 2 * len(error.device[0]) + 4


# --- the rate ---


def test_a_burst_then_so_many_a_second() -> None:
    bucket = icmp.TokenBucket(rate=1000.0, burst=50.0)
    assert sum(bucket.take(10.0) for _ in range(100)) == 50
    assert sum(bucket.take(10.010) for _ in range(100)) in (9, 10)
    assert sum(bucket.take(11.0) for _ in range(100)) == 50


def test_a_clock_that_stands_or_goes_back_gives_nothing() -> None:
    bucket = icmp.TokenBucket(rate=1000.0, burst=1.0)
    assert bucket.take(10.0)
    assert not bucket.take(10.0)
    assert not bucket.take(5.0)
