"""The address plan: who lives where inside the tunnel.

Number 1 is the gateway, devices count from 2. A device has the same number in both ranges. The
lower half of the IPv4 range belongs to devices, the upper half to the aliases of tailnet nodes.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from .errors import UserError

DEFAULT_IPV4 = "10.90.0.0/16"
DEFAULT_IPV6 = "fd7a:115c:a1e0:9909::/64"
TAILNET_IPV4 = IPv4Network("100.64.0.0/10")
TAILNET_IPV6 = IPv6Network("fd7a:115c:a1e0::/48")

GATEWAY = 1
FIRST_DEVICE = 2
# A /8 is the largest private range; a /28 still holds six devices and eight aliases.
IPV4_PREFIXES = range(8, 29)
# IPv6 must hold as many numbers as any IPv4 range does.
IPV6_PREFIXES = range(32, 105)
# A revoked device's address is not given to another one before this time has passed.
REMEMBER_SECONDS = 30 * 86400


@dataclass(frozen=True, slots=True)
class AddressPlan:
    """Both ranges, and what each number in them is."""

    ipv4: IPv4Network
    ipv6: IPv6Network

    @classmethod
    def parse(cls, ipv4: str = DEFAULT_IPV4, ipv6: str = DEFAULT_IPV6) -> AddressPlan:
        """The plan for two ranges as a user writes them."""
        return cls(parse_ipv4_range(ipv4), parse_ipv6_range(ipv6))

    @property
    def gateway4(self) -> IPv4Address:
        """The gateway's IPv4 address."""
        return self.ipv4[GATEWAY]

    @property
    def gateway6(self) -> IPv6Address:
        """The gateway's IPv6 address."""
        return self.ipv6[GATEWAY]

    @property
    def alias_range(self) -> IPv4Network:
        """The block that aliases of tailnet nodes are taken from."""
        return list(self.ipv4.subnets(prefixlen_diff=1))[1]

    @property
    def last_device(self) -> int:
        """The highest number a device can have."""
        return self.ipv4.num_addresses // 2 - 1

    def addresses(self, number: int) -> tuple[bytes, bytes]:
        """The packed IPv4 and IPv6 addresses of a number."""
        return self.ipv4[number].packed, self.ipv6[number].packed

    def allocate(self, taken: Container[int]) -> int:
        """The lowest number that is neither in use nor remembered."""
        for number in range(FIRST_DEVICE, self.last_device + 1):
            if number not in taken:
                return number
        count = self.last_device - FIRST_DEVICE + 1
        raise UserError(
            f"All {count} device addresses of {self.ipv4} are taken or were freed less than "
            f"{REMEMBER_SECONDS // 86400} days ago; a larger IPv4 range gives room for more."
        )


def parse_ipv4_range(text: str) -> IPv4Network:
    """An IPv4 range a user chose, refused where it could not work."""
    try:
        network = IPv4Network(text)
    except ValueError:
        raise UserError(f"'{text}' is not an IPv4 range such as {DEFAULT_IPV4}.") from None
    if network.overlaps(TAILNET_IPV4):
        raise UserError(f"The IPv4 range {network} overlaps the tailnet's own {TAILNET_IPV4}.")
    if network.prefixlen not in IPV4_PREFIXES or not network.is_private:
        raise UserError(f"The IPv4 range must be private and between /8 and /28, not {network}.")
    return network


def parse_ipv6_range(text: str) -> IPv6Network:
    """An IPv6 range a user chose, refused where it could not work."""
    try:
        network = IPv6Network(text)
    except ValueError:
        raise UserError(f"'{text}' is not an IPv6 range such as {DEFAULT_IPV6}.") from None
    if network.prefixlen not in IPV6_PREFIXES or network.is_multicast or network.is_link_local:
        raise UserError(f"The IPv6 range must be unicast and between /32 and /104, not {network}.")
    if network.supernet_of(TAILNET_IPV6):
        raise UserError(f"The IPv6 range {network} would swallow the tailnet's {TAILNET_IPV6}.")
    return network
