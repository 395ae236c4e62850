"""IPv4 and IPv6 headers (RFC 791, RFC 8200): parsing what a device sent, building what we send.

`decode` is strict and raises `IpError` with the counter to raise and the ICMP error to answer with;
`parse` is the same for callers who only want a header or none.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import NamedTuple

from lopower.netstack.checksum import checksum

Packet = bytes | bytearray | memoryview

ICMP = 1
TCP = 6
UDP = 17
ICMPV6 = 58

HOP_BY_HOP = 0
ROUTING = 43
FRAGMENT = 44
NO_NEXT_HEADER = 59
DESTINATION_OPTIONS = 60

IPV4_HEADER = 20
IPV6_HEADER = 40
FRAGMENT_HEADER = 8
HOP_LIMIT = 64  # RFC 1700's recommendation, what Linux sends

DONT_FRAGMENT = 0x4000
MORE_FRAGMENTS = 0x2000

# No sender uses more than four; without a bound one packet of empty headers is a loop of 150.
MAX_EXTENSION_HEADERS = 8

PAD1 = 0
PADN = 1
JUMBO_PAYLOAD = 0xC2
ROUTER_ALERT = 5

_LOOSE_SOURCE_ROUTE = 131
_STRICT_SOURCE_ROUTE = 137

_IPV4 = Struct("!BBHHHBBH4s4s")
_IPV6 = Struct("!IHBB16s16s")
_FRAGMENT = Struct("!BBHI")
_LINK_LOCAL = (169, 254)
_V6_LOOPBACK_OR_UNSPECIFIED = (bytes(16), bytes(15) + b"\x01")
_V4_MAPPED = bytes(10) + b"\xff\xff"


class Fragment(NamedTuple):
    """Where a fragment belongs in its datagram; offsets in bytes."""

    identification: int
    offset: int
    more: bool
    next_header_at: int
    """Where in the packet the Next Header byte stands that leads to the fragment header (IPv6)."""


class IpHeader(NamedTuple):
    """What the transport protocols need to know of the packet around them."""

    version: int
    source: bytes
    destination: bytes
    protocol: int
    """The transport protocol, after any extension headers."""
    header_length: int
    """Offset of the transport header (of the fragment's data, for a fragment)."""
    total_length: int
    """Length of the packet; bytes after it are padding."""
    key: bytes
    """Source, destination and both ports as on the wire; without ports the addresses alone."""
    protocol_at: int
    """Where in the packet the byte with `protocol` stands."""
    fragment: Fragment | None = None


class ParameterProblem(NamedTuple):
    """An ICMPv6 Parameter Problem (RFC 4443, 3.4) that a bad header earns."""

    code: int
    pointer: int
    even_if_multicast: bool = False


ERRONEOUS_FIELD = 0
UNKNOWN_NEXT_HEADER = 1
UNKNOWN_OPTION = 2


class IpError(Exception):
    """A packet that is dropped: `reason` names the counter, `problem` the ICMPv6 answer."""

    def __init__(self, reason: str, problem: ParameterProblem | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.problem = problem


def parse(packet: Packet) -> IpHeader | None:
    """The header of a well-formed packet, `None` for anything else."""
    try:
        return decode(packet)
    except IpError:
        return None


def decode(packet: Packet) -> IpHeader:
    """The header of a well-formed packet; raises `IpError` for anything else."""
    if not len(packet):
        raise IpError("truncated")
    version = packet[0] >> 4
    if version == 4:
        return _decode_v4(packet)
    if version == 6:
        return _decode_v6(packet)
    raise IpError("version")


def _decode_v4(packet: Packet) -> IpHeader:
    if len(packet) < IPV4_HEADER:
        raise IpError("truncated")
    first, _, total, identification, flags, _, protocol, _, source, destination = _IPV4.unpack_from(
        packet
    )
    length = (first & 15) << 2
    if length < IPV4_HEADER or total < length or total > len(packet):
        raise IpError("length")
    if int.from_bytes(packet[:length]) % 65535:
        raise IpError("header checksum")
    if length > IPV4_HEADER:
        _check_v4_options(packet[IPV4_HEADER:length])
    fragment = None
    if flags & 0x3FFF:
        offset = (flags & 0x1FFF) << 3
        fragment = Fragment(identification, offset, flags & MORE_FRAGMENTS != 0, 9)
    key = _key(packet, source + destination, protocol, length, total, fragment)
    return IpHeader(4, source, destination, protocol, length, total, key, 9, fragment)


def _check_v4_options(options: Packet) -> None:
    """Options change nothing for us, but source routes are refused (RFC 7126, 4.3 and 4.4)."""
    at = 0
    while at < len(options) and options[at]:
        kind = options[at]
        if kind == 1:
            at += 1
            continue
        if kind in (_LOOSE_SOURCE_ROUTE, _STRICT_SOURCE_ROUTE):
            raise IpError("source route")
        if at + 2 > len(options) or options[at + 1] < 2:
            raise IpError("options")
        at += options[at + 1]
    if at > len(options):
        raise IpError("options")


def _decode_v6(packet: Packet) -> IpHeader:
    if len(packet) < IPV6_HEADER:
        raise IpError("truncated")
    _, payload, following, _, source, destination = _IPV6.unpack_from(packet)
    total = payload + IPV6_HEADER
    if not payload and following == HOP_BY_HOP:
        raise IpError("jumbogram")
    if total > len(packet):
        raise IpError("length")
    if following in (TCP, UDP, ICMPV6):
        key = _key(packet, source + destination, following, IPV6_HEADER, total, None)
        return IpHeader(6, source, destination, following, IPV6_HEADER, total, key, 6)
    return _walk_extension_headers(packet, source, destination, following, total)


def _walk_extension_headers(
    packet: Packet, source: bytes, destination: bytes, following: int, total: int
) -> IpHeader:
    at, following_at, fragment, data_at = IPV6_HEADER, 6, None, 0
    for _ in range(MAX_EXTENSION_HEADERS + 1):
        if following not in _EXTENSION_HEADERS:
            break
        if following == HOP_BY_HOP and at != IPV6_HEADER:
            raise IpError("hop-by-hop", ParameterProblem(UNKNOWN_NEXT_HEADER, following_at))
        end = _extension_end(packet, following, at, total)
        if following != FRAGMENT:
            _check_extension(packet, following, at, end)
        elif fragment is None:
            fragment, data_at = _fragment(packet, at, total, following_at), end
        else:
            raise IpError("nested fragment")
        following, following_at, at = packet[at], at, end
        if fragment is not None and fragment.offset:
            break
    else:
        raise IpError("extension headers")
    if following == NO_NEXT_HEADER:
        raise IpError("no next header")
    addresses = source + destination
    if fragment is not None and (fragment.offset or fragment.more):
        # The chain of a first fragment has been looked at (RFC 7112); reassembly wants its data.
        at, following_at = data_at, data_at - FRAGMENT_HEADER
        protocol = packet[following_at]
        return IpHeader(
            6, source, destination, protocol, at, total, addresses, following_at, fragment
        )
    key = _key(packet, addresses, following, at, total, None)
    return IpHeader(6, source, destination, following, at, total, key, following_at)


def _extension_end(packet: Packet, kind: int, at: int, total: int) -> int:
    if at + 8 > total:
        raise IpError("truncated")
    end = at + 8 if kind == FRAGMENT else at + 8 + (packet[at + 1] << 3)
    if end > total:
        raise IpError("truncated")
    return end


_EXTENSION_HEADERS = frozenset((HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS))


def _fragment(packet: Packet, at: int, total: int, next_header_at: int) -> Fragment:
    _, _, field, identification = _FRAGMENT.unpack_from(packet, at)
    more = field & 1 != 0
    if more and (total - at - FRAGMENT_HEADER) & 7:
        # RFC 8200, 4.5: a fragment but the last is a multiple of 8 long; point at Payload Length.
        raise IpError("fragment length", ParameterProblem(ERRONEOUS_FIELD, 4))
    return Fragment(identification, field & 0xFFF8, more, next_header_at)


def _check_extension(packet: Packet, kind: int, at: int, end: int) -> None:
    if kind != ROUTING:
        _check_v6_options(packet, at + 2, end)
    elif packet[at + 3]:
        # Segments are left, so we are asked to forward: RFC 5095 for type 0, RFC 8200 4.4 for all.
        raise IpError("routing header", ParameterProblem(ERRONEOUS_FIELD, at + 2))


def _check_v6_options(packet: Packet, at: int, end: int) -> None:
    """Walk the options as RFC 8200, 4.2 has it: the top two bits of an unknown one decide."""
    while at < end:
        kind = packet[at]
        if kind == PAD1:
            at += 1
            continue
        if at + 2 > end:
            raise IpError("options")
        action = kind >> 6
        if action and kind != PADN:
            reason = "jumbogram" if kind == JUMBO_PAYLOAD else "unknown option"
            problem = ParameterProblem(UNKNOWN_OPTION, at, action == 2) if action > 1 else None
            raise IpError(reason, problem)
        at += 2 + packet[at + 1]
    if at > end:
        raise IpError("options")


def _key(
    packet: Packet,
    addresses: bytes,
    protocol: int,
    at: int,
    total: int,
    fragment: Fragment | None,
) -> bytes:
    if fragment is None and protocol in (TCP, UDP) and at + 4 <= total:
        return addresses + bytes(packet[at : at + 4])
    return addresses


def is_multicast(address: bytes) -> bool:
    """Multicast and limited broadcast: nothing a transparent proxy can carry, nor answer."""
    if len(address) == 4:
        return 224 <= address[0] < 240 or address == b"\xff\xff\xff\xff"
    return address[0] == 0xFF


def is_martian(address: bytes) -> bool:
    """Addresses no packet in a tunnel may come from (RFC 1812, 5.3.7; RFC 4291)."""
    first = address[0]
    if len(address) == 4:
        return first in (0, 127) or first >= 224 or (first, address[1]) == _LINK_LOCAL
    return (
        first == 0xFF
        or (first == 0xFE and address[1] & 0xC0 == 0x80)
        or address in _V6_LOOPBACK_OR_UNSPECIFIED
        or address.startswith(_V4_MAPPED)
    )


def build_header(source: bytes, destination: bytes, protocol: int, payload_length: int) -> bytes:
    """The header of an unfragmented packet of either version."""
    if len(source) == 4:
        return ipv4_header(source, destination, protocol, payload_length)
    return ipv6_header(source, destination, protocol, payload_length)


def ipv4_header(
    source: bytes,
    destination: bytes,
    protocol: int,
    payload_length: int,
    *,
    identification: int = 0,
    flags: int = DONT_FRAGMENT,
) -> bytes:
    """An IPv4 header; `flags` is the word with DF, MF and the fragment offset in units of 8.

    An atomic datagram needs no identification (RFC 6864, 4.1).
    """
    total = IPV4_HEADER + payload_length
    fields = (0x45, 0, total, identification, flags, HOP_LIMIT, protocol)
    unsummed = _IPV4.pack(*fields, 0, source, destination)
    return _IPV4.pack(*fields, checksum(unsummed), source, destination)


def ipv6_header(source: bytes, destination: bytes, protocol: int, payload_length: int) -> bytes:
    """An IPv6 header. The flow label is 0: ESP32 libraries read a length from it."""
    return _IPV6.pack(0x60000000, payload_length, protocol, HOP_LIMIT, source, destination)


def fragment_header(protocol: int, offset: int, more: bool, identification: int) -> bytes:
    """An IPv6 fragment header (RFC 8200, 4.5); `offset` in bytes."""
    return _FRAGMENT.pack(protocol, 0, offset | more, identification)


def split(packet: bytes, identification: int, mtu: int) -> Iterator[bytes]:
    """The fragments, each at most `mtu` long, of a packet without options or extension headers."""
    if packet[0] >> 4 == 4:
        return _split_v4(packet, identification & 0xFFFF, mtu)
    return _split_v6(packet, identification & 0xFFFFFFFF, mtu)


def _split_v4(packet: bytes, identification: int, mtu: int) -> Iterator[bytes]:
    protocol, source, destination = packet[9], packet[12:16], packet[16:20]
    data = memoryview(packet)[IPV4_HEADER:]
    step = (mtu - IPV4_HEADER) & ~7
    for offset in range(0, len(data), step):
        piece = data[offset : offset + step]
        flags = offset >> 3
        if offset + step < len(data):
            flags |= MORE_FRAGMENTS
        header = ipv4_header(
            source,
            destination,
            protocol,
            len(piece),
            identification=identification,
            flags=flags,
        )
        yield header + piece


def _split_v6(packet: bytes, identification: int, mtu: int) -> Iterator[bytes]:
    protocol, source, destination = packet[6], packet[8:24], packet[24:40]
    data = memoryview(packet)[IPV6_HEADER:]
    step = (mtu - IPV6_HEADER - FRAGMENT_HEADER) & ~7
    for offset in range(0, len(data), step):
        piece = data[offset : offset + step]
        more = offset + step < len(data)
        header = ipv6_header(source, destination, FRAGMENT, FRAGMENT_HEADER + len(piece))
        yield header + fragment_header(protocol, offset, more, identification) + piece
