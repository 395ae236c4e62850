"""UDP (RFC 768): whole packets with one `pack`, and the fragments of those that are too long."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct

from lopower.netstack.checksum import ones_sum
from lopower.netstack.events import Address
from lopower.netstack.ip import (
    FRAGMENT,
    FRAGMENT_HEADER,
    HOP_LIMIT,
    IPV4_HEADER,
    IPV6_HEADER,
    MORE_FRAGMENTS,
    UDP,
    Packet,
    fragment_header,
    ipv4_header,
    ipv6_header,
)

HEADER = 8
MAX_PAYLOAD = 65_507  # what an IPv4 packet holds; IPv6 would take 20 more

# Version, length, flags, hop limit and addresses of the IP header, then the UDP header.
_V4 = Struct("!HHIBBH4s4sHHHH")
_V6 = Struct("!IHBB16s16sHHHH")
_DONT_FRAGMENT = 0x4000
_V4_CONSTANT_SUM = 0x4500 + _DONT_FRAGMENT + (HOP_LIMIT << 8) + UDP


def build(source: Address, destination: Address, payload: Packet) -> bytes:
    """The whole packet, however long."""
    source_address, source_port = source
    address, port = destination
    length = len(payload) + HEADER
    addresses = int.from_bytes(source_address + address) % 65535
    # RFC 768: a sum of zero goes as all ones, which is how 65535 - 0 comes out.
    words = addresses + UDP + length + source_port + port + length + ones_sum(payload)
    field = 65535 - words % 65535
    if len(address) == 16:
        header = _V6.pack(
            0x60000000,
            length,
            UDP,
            HOP_LIMIT,
            source_address,
            address,
            source_port,
            port,
            length,
            field,
        )
        return header + payload
    total = length + IPV4_HEADER
    header = _V4.pack(
        0x4500,
        total,
        _DONT_FRAGMENT,
        HOP_LIMIT,
        UDP,
        65535 - (_V4_CONSTANT_SUM + total + addresses) % 65535,
        source_address,
        address,
        source_port,
        port,
        length,
        field,
    )
    return header + payload


def split(packet: bytes, identification: int, mtu: int) -> Iterator[bytes]:
    """The fragments of a packet of `build`, each at most `mtu` long."""
    if packet[0] >> 4 == 4:
        return _split_v4(packet, identification & 0xFFFF, mtu)
    return _split_v6(packet, identification & 0xFFFFFFFF, mtu)


def _split_v4(packet: bytes, identification: int, mtu: int) -> Iterator[bytes]:
    source, destination = packet[12:16], packet[16:20]
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
            UDP,
            len(piece),
            identification=identification,
            flags=flags,
        )
        yield header + piece


def _split_v6(packet: bytes, identification: int, mtu: int) -> Iterator[bytes]:
    source, destination = packet[8:24], packet[24:40]
    data = memoryview(packet)[IPV6_HEADER:]
    step = (mtu - IPV6_HEADER - FRAGMENT_HEADER) & ~7
    for offset in range(0, len(data), step):
        piece = data[offset : offset + step]
        more = offset + step < len(data)
        header = ipv6_header(source, destination, FRAGMENT, FRAGMENT_HEADER + len(piece))
        yield header + fragment_header(UDP, offset, more, identification) + piece
