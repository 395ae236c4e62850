"""The host's own addresses and attached networks: what a device must not reach unasked."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple

import ifaddr


class Host(NamedTuple):
    """Packed addresses, and the networks of all interfaces (single addresses left out)."""

    addresses: tuple[bytes, ...]
    networks: tuple[IPv4Network | IPv6Network, ...]


def look() -> Host:
    """What the interfaces have at this moment."""
    addresses: dict[bytes, None] = {}
    networks: dict[IPv4Network | IPv6Network, None] = {}
    for adapter in ifaddr.get_adapters():
        for entry in adapter.ips:
            text = entry.ip if isinstance(entry.ip, str) else entry.ip[0]
            address = ip_address(text)
            addresses[address.packed] = None
            network = ip_network(f"{address}/{entry.network_prefix}", strict=False)
            if network.num_addresses > 1 and not address.is_loopback and not address.is_link_local:
                networks[network] = None
    return Host(tuple(addresses), tuple(networks))
