"""ICMP for IPv4 (RFC 792, RFC 1122) and IPv6 (RFC 4443): echoes, and errors in both directions."""

from __future__ import annotations

from collections.abc import Hashable
from struct import Struct

from lopower.netstack.checksum import ones_sum, pseudo_header_sum
from lopower.netstack.events import EchoRequest, IcmpError, IcmpErrorKind, Unreachable
from lopower.netstack.ip import (
    FRAGMENT,
    ICMP,
    ICMPV6,
    IPV4_HEADER,
    IPV6_HEADER,
    TCP,
    UDP,
    UNKNOWN_NEXT_HEADER,
    IpError,
    IpHeader,
    Packet,
    ParameterProblem,
    build_header,
    decode,
    is_martian,
    is_multicast,
)

ECHO_REPLY = 0
DESTINATION_UNREACHABLE = 3
ECHO_REQUEST = 8
TIME_EXCEEDED = 11
PARAMETER_PROBLEM = 12

V6_DESTINATION_UNREACHABLE = 1
V6_PACKET_TOO_BIG = 2
V6_TIME_EXCEEDED = 3
V6_PARAMETER_PROBLEM = 4
V6_ECHO_REQUEST = 128
V6_ECHO_REPLY = 129
V6_REDIRECT = 137

# Multicast listeners, routers, neighbours, redirects: a tunnel has none of them.
V6_LINK_LOCAL_TYPES = frozenset((130, 131, 132, 133, 134, 135, 136, 137, 143))

HEADER = 8
MAX_V4_ERROR = 576  # RFC 1812, 4.3.2.3
MAX_V6_ERROR = 1280  # RFC 4443, 2.4 (c)

REASSEMBLY_TIMEOUT = 1  # the code of Time Exceeded

# gVisor's figures: errors help, a storm of them does not.
ERRORS_PER_SECOND = 1000.0
ERROR_BURST = 50.0

_UNREACHABLE_CODES = {
    Unreachable.NET: 0,
    Unreachable.HOST: 1,
    Unreachable.PROTOCOL: 2,
    Unreachable.PORT: 3,
    Unreachable.PROHIBITED: 13,
}
_V6_UNREACHABLE_CODES = {
    Unreachable.NET: 0,
    Unreachable.PROHIBITED: 1,
    Unreachable.HOST: 3,
    Unreachable.PORT: 4,
}

_Kind = IcmpErrorKind
_KINDS: dict[int, dict[int, IcmpErrorKind]] = {
    DESTINATION_UNREACHABLE: {
        **dict.fromkeys((0, 6, 11), _Kind.NET_UNREACHABLE),
        **dict.fromkeys((1, 5, 7, 8, 12), _Kind.HOST_UNREACHABLE),
        2: _Kind.PROTOCOL_UNREACHABLE,
        3: _Kind.PORT_UNREACHABLE,
        4: _Kind.TOO_BIG,
        **dict.fromkeys((9, 10, 13, 14, 15), _Kind.PROHIBITED),
    },
    TIME_EXCEEDED: dict.fromkeys((0, 1), _Kind.TIME_EXCEEDED),
    PARAMETER_PROBLEM: dict.fromkeys((0, 1, 2), _Kind.PARAMETER_PROBLEM),
}
_V6_KINDS: dict[int, dict[int, IcmpErrorKind]] = {
    V6_DESTINATION_UNREACHABLE: {
        0: _Kind.NET_UNREACHABLE,
        **dict.fromkeys((2, 3), _Kind.HOST_UNREACHABLE),
        4: _Kind.PORT_UNREACHABLE,
        **dict.fromkeys((1, 5, 6), _Kind.PROHIBITED),
    },
    V6_PACKET_TOO_BIG: dict.fromkeys(range(256), _Kind.TOO_BIG),  # RFC 4443, 3.2: any code
    V6_TIME_EXCEEDED: dict.fromkeys((0, 1), _Kind.TIME_EXCEEDED),
    V6_PARAMETER_PROBLEM: {
        0: _Kind.PARAMETER_PROBLEM,
        1: _Kind.PROTOCOL_UNREACHABLE,
        2: _Kind.PARAMETER_PROBLEM,
        3: _Kind.PARAMETER_PROBLEM,
    },
}

_HEADER = Struct("!BBHI")
_ECHO = Struct("!BBHHH")


class TokenBucket:
    """So many a second, and a burst on top."""

    __slots__ = ("_burst", "_rate", "_time", "_tokens")

    def __init__(self, rate: float = ERRORS_PER_SECOND, burst: float = ERROR_BURST) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._time: float | None = None

    def take(self, now: float) -> bool:
        """Whether one more may go."""
        if self._time is not None:
            gained = max(now - self._time, 0.0) * self._rate
            self._tokens = min(self._burst, self._tokens + gained)
        self._time = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


def build_message(source: bytes, destination: bytes, kind: int, code: int, rest: bytes) -> bytes:
    """A whole ICMP packet of the addresses' version; `rest` is what follows the checksum."""
    length = 4 + len(rest)
    protocol, initial = ICMP, 0
    if len(source) == 16:
        protocol = ICMPV6
        initial = pseudo_header_sum(source, destination, ICMPV6, length)
    initial += (kind << 8) + code + ones_sum(rest)
    field = 65535 - initial % 65535
    header = build_header(source, destination, protocol, length)
    return b"".join((header, bytes((kind, code)), field.to_bytes(2), rest))


def echo_reply(request: EchoRequest) -> bytes:
    """The answer to a ping, from the address that was asked."""
    kind = ECHO_REPLY if len(request.source) == 4 else V6_ECHO_REPLY
    rest = _identify(request.identifier, request.sequence) + request.payload
    return build_message(request.destination, request.source, kind, 0, rest)


def _identify(identifier: int, sequence: int) -> bytes:
    return ((identifier << 16) | sequence).to_bytes(4)


def unreachable(original: Packet, reason: Unreachable, gateway: bytes | None) -> bytes | None:
    """The error for `original`, `None` where none may be sent.

    It comes from the gateway, or where that has no such address, and for what only the destination
    can know, from the destination.
    """
    ip = _eligible(original)
    if ip is None:
        return None
    source = ip.destination
    if reason not in (Unreachable.PORT, Unreachable.PROTOCOL) and gateway is not None:
        source = gateway
    if ip.version == 4:
        code = _UNREACHABLE_CODES[reason]
        return _error(source, ip, DESTINATION_UNREACHABLE, code, 0, original)
    if reason is Unreachable.PROTOCOL:
        # RFC 4443, 3.4: IPv6 says this with a Parameter Problem.
        pointer = ip.protocol_at
        return _error(source, ip, V6_PARAMETER_PROBLEM, UNKNOWN_NEXT_HEADER, pointer, original)
    code = _V6_UNREACHABLE_CODES[reason]
    return _error(source, ip, V6_DESTINATION_UNREACHABLE, code, 0, original)


def reassembly_timeout(first: bytes, gateway: bytes | None) -> bytes | None:
    """Time Exceeded about a first fragment whose others did not come."""
    ip = _eligible(first)
    if ip is None:
        return None
    kind = TIME_EXCEEDED if ip.version == 4 else V6_TIME_EXCEEDED
    return _error(gateway or ip.destination, ip, kind, REASSEMBLY_TIMEOUT, 0, first)


def parameter_problem(
    original: Packet, problem: ParameterProblem, gateway: bytes | None
) -> bytes | None:
    """The ICMPv6 error for a header that `ip.decode` refused."""
    source, destination = bytes(original[8:24]), bytes(original[24:40])
    if is_martian(source):
        return None
    sender = gateway or destination
    if is_multicast(destination) and (gateway is None or not problem.even_if_multicast):
        return None
    ip = IpHeader(6, source, destination, 0, 0, len(original), b"", 6)
    kind, code = V6_PARAMETER_PROBLEM, problem.code
    return _error(sender, ip, kind, code, problem.pointer, original)


def _eligible(original: Packet) -> IpHeader | None:
    """The header of a packet that an error may be about (RFC 1122, 3.2.2; RFC 4443, 2.4 (e))."""
    try:
        ip = decode(original)
    except IpError:
        return None
    if ip.fragment is not None and ip.fragment.offset:
        return None
    if is_martian(ip.source) or is_multicast(ip.destination):
        return None
    is_icmp = ip.protocol == (ICMP if ip.version == 4 else ICMPV6)
    if is_icmp and not _is_query(original, ip):
        return None
    return ip


def _is_query(original: Packet, ip: IpHeader) -> bool:
    if ip.header_length >= ip.total_length:
        return False
    kind = original[ip.header_length]
    if ip.protocol == ICMP:
        return kind in (ECHO_REQUEST, ECHO_REPLY, 13, 14)
    return kind >= V6_ECHO_REQUEST and kind != V6_REDIRECT


def _error(
    source: bytes, ip: IpHeader, kind: int, code: int, field: int, original: Packet
) -> bytes:
    if ip.version == 4:
        room = MAX_V4_ERROR - IPV4_HEADER - HEADER
    else:
        room = MAX_V6_ERROR - IPV6_HEADER - HEADER
    quoted = bytes(original[: min(room, ip.total_length)])
    return build_message(source, ip.source, kind, code, field.to_bytes(4) + quoted)


def parse_echo(link: Hashable, packet: Packet, ip: IpHeader) -> EchoRequest:
    """The ping in `packet`, whose type has been looked at."""
    at = ip.header_length
    _, _, _, identifier, sequence = _ECHO.unpack_from(packet, at)
    whole = bytes(packet[: ip.total_length])
    payload = whole[at + HEADER :]
    return EchoRequest(link, ip.source, ip.destination, identifier, sequence, payload, whole)


def parse_error(link: Hashable, packet: Packet, ip: IpHeader) -> IcmpError | None:
    """The ICMP error in `packet`, `None` for one about nothing that the gateway could have sent."""
    at = ip.header_length
    if ip.total_length < at + HEADER:
        return None
    kind, code, _, field = _HEADER.unpack_from(packet, at)
    kinds = _KINDS if ip.version == 4 else _V6_KINDS
    meaning = kinds.get(kind, {}).get(code)
    if meaning is None:
        return None
    quoted = bytes(packet[at + HEADER : ip.total_length])
    mtu = 0
    if meaning is IcmpErrorKind.TOO_BIG:
        mtu = field & 0xFFFF if ip.version == 4 else field
    return _match(link, meaning, mtu, quoted, ip.version)


def _match(
    link: Hashable, kind: IcmpErrorKind, mtu: int, quoted: bytes, version: int
) -> IcmpError | None:
    """Read the flow out of our own packet, cut short, that the error quotes."""
    transport = _quoted_v4(quoted) if version == 4 else _quoted_v6(quoted)
    if transport is None:
        return None
    protocol, remote, device, at = transport
    if protocol not in (TCP, UDP) or len(quoted) < at + 4:
        return None
    remote_port, device_port = quoted[at : at + 2], quoted[at + 2 : at + 4]
    sequence = None
    if protocol == TCP and len(quoted) >= at + 8:
        sequence = int.from_bytes(quoted[at + 4 : at + 8])
    return IcmpError(
        link,
        kind,
        protocol,
        device + remote + device_port + remote_port,
        (device, int.from_bytes(device_port)),
        (remote, int.from_bytes(remote_port)),
        mtu,
        sequence,
    )


def _quoted_v4(quoted: bytes) -> tuple[int, bytes, bytes, int] | None:
    if len(quoted) < IPV4_HEADER or quoted[0] != 0x45:  # we send no options
        return None
    if (quoted[6] & 0x1F) or quoted[7]:
        return None
    return quoted[9], quoted[12:16], quoted[16:20], IPV4_HEADER


def _quoted_v6(quoted: bytes) -> tuple[int, bytes, bytes, int] | None:
    if len(quoted) < IPV6_HEADER or quoted[0] >> 4 != 6:
        return None
    protocol, at = quoted[6], IPV6_HEADER
    if protocol == FRAGMENT:  # the only extension header we send
        if len(quoted) < at + 8 or (int.from_bytes(quoted[at + 2 : at + 4]) & 0xFFF8):
            return None
        protocol, at = quoted[at], at + 8
    return protocol, quoted[8:24], quoted[24:40], at
