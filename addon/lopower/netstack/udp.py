"""UDP (RFC 768): whole packets with one `pack`."""

from __future__ import annotations

from struct import Struct

from lopower.netstack.checksum import ones_sum
from lopower.netstack.events import Address
from lopower.netstack.ip import DONT_FRAGMENT, HOP_LIMIT, IPV4_HEADER, UDP, Packet

HEADER = 8
MAX_PAYLOAD = 65_507  # what an IPv4 packet holds; IPv6 would take 20 more

# Version, length, flags, hop limit and addresses of the IP header, then the UDP header.
_V4 = Struct("!HHIBBH4s4sHHHH")
_V6 = Struct("!IHBB16s16sHHHH")
_V4_CONSTANT_SUM = 0x4500 + DONT_FRAGMENT + (HOP_LIMIT << 8) + UDP


def build(source: Address, destination: Address, payload: Packet) -> bytes:
    """The whole packet, however long."""
    source_address, source_port = source
    address, port = destination
    if len(address) != len(source_address):
        raise ValueError("source and destination are of different address families")
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
        DONT_FRAGMENT,
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
