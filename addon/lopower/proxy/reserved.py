"""Addresses that mean something else where the dial happens, and other spellings of them."""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_network
from typing import NamedTuple

from lopower.proxy.rule import Network


class Opens(Enum):
    """Which rules open a reserved address."""

    NEVER = 0
    EXACT = 1  # a rule with exactly this address
    INSIDE = 2  # a rule inside the reserved range
    NARROW = 3  # any rule narrower than /0


class Reserved(NamedTuple):
    size: int  # of the address: 4 or 16
    low: int
    high: int
    opens: Opens
    reason: str

    def opened_by(self, low: int, high: int, names_zero: bool) -> bool:
        """Whether a rule that covers the address from `low` to `high` may open it."""
        if self.opens is Opens.EXACT:
            return low == high
        if self.opens is Opens.INSIDE:
            return self.low <= low and high <= self.high
        return self.opens is Opens.NARROW and not names_zero


def reserve(network: Network | str, opens: Opens, reason: str) -> Reserved:
    network = ip_network(network) if isinstance(network, str) else network
    low, high = int(network.network_address), int(network.broadcast_address)
    return Reserved(network.max_prefixlen // 8, low, high, opens, reason)


_LOOPBACK = "the loopback of the gateway's machine"
_LINK_LOCAL = "a link-local address"
_UNSPECIFIED = "an unspecified address"
_MULTICAST = "a multicast address"
HOST = "an address of the gateway's machine"
LAN = "in a network attached to the gateway's machine"
DEVICE = "the address of another device"
_SERVICE = "Tailscale's own service address"

ALWAYS = (
    reserve("0.0.0.0/8", Opens.NEVER, _UNSPECIFIED),
    reserve("127.0.0.0/8", Opens.INSIDE, _LOOPBACK),
    reserve("169.254.0.0/16", Opens.INSIDE, _LINK_LOCAL),
    reserve("224.0.0.0/4", Opens.NEVER, _MULTICAST),
    reserve("255.255.255.255/32", Opens.NEVER, "the broadcast address"),
    reserve("240.0.0.0/4", Opens.NEVER, "a reserved address"),
    reserve("100.100.100.100/32", Opens.EXACT, _SERVICE),
    reserve("::/128", Opens.NEVER, _UNSPECIFIED),
    reserve("::1/128", Opens.INSIDE, _LOOPBACK),
    reserve("fe80::/10", Opens.INSIDE, _LINK_LOCAL),
    reserve("fec0::/10", Opens.INSIDE, "a site-local address"),
    reserve("ff00::/8", Opens.NEVER, _MULTICAST),
    reserve("fd7a:115c:a1e0::53/128", Opens.EXACT, _SERVICE),
)

PRIVATE = tuple(
    reserve(network, Opens.NARROW, "a private address")
    for network in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7")
)


def find(table: Iterable[Reserved], address: bytes) -> Reserved | None:
    size, value = len(address), int.from_bytes(address, "big")
    for entry in table:
        if entry.low <= value <= entry.high and entry.size == size:
            return entry
    return None


MAPPED = bytes(10) + b"\xff\xff"
_TRANSLATED = bytes(8) + b"\xff\xff\0\0"  # SIIT, RFC 2765
_NAT64 = b"\0\x64\xff\x9b" + bytes(8)  # RFC 6052
_NAT64_LOCAL = b"\0\x64\xff\x9b\0\x01"  # RFC 8215: any of six layouts
_ISATAP = (b"\0\0\x5e\xfe", b"\x02\0\x5e\xfe")  # RFC 5214


def embedded(address: bytes) -> tuple[bytes, ...]:
    """Every IPv4 address that an IPv6 address may be another spelling of."""
    head = address[:12]
    if head in (MAPPED, _TRANSLATED, _NAT64):
        return (address[12:],)
    if head == bytes(12):  # IPv4-compatible, but :: and ::1 are themselves
        return (address[12:],) if address[12:15] != bytes(3) or address[15] > 1 else ()
    if address[:2] == b"\x20\x02":  # 6to4
        return (address[2:6],)
    if address[:4] == b"\x20\x01\0\0":  # Teredo: server, and client inverted (RFC 4380)
        return (address[4:8], bytes(byte ^ 255 for byte in address[12:]))
    if address[:6] == _NAT64_LOCAL:
        return (address[7:8] + address[9:12], address[9:13], address[12:])
    return (address[12:],) if address[8:12] in _ISATAP else ()
