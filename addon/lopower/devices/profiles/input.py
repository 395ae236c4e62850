"""What every profile is made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
)

from .. import keys
from ..addresses import TAILNET_IPV4, TAILNET_IPV6, AddressPlan
from ..device import Device
from ..hosts import HostPort

# 1280 is the least IPv6 allows, and what ESP32 libraries are compiled for.
MTU = 1280
# Below the 30 s after which the meanest home routers forget a UDP flow.
KEEPALIVE = 25
PLACEHOLDER = "<put this device's own private key here>"


@dataclass(frozen=True, slots=True)
class ProfileInput:
    """One device as its client has to see it; `ipv4` is None while IPv4 is off."""

    name: str
    private_key: bytes | None = field(repr=False)  # None: the device made its own
    preshared_key: bytes | None = field(repr=False)
    server_public_key: bytes
    endpoint: HostPort
    ipv4: IPv4Address | None
    ipv6: IPv6Address
    plan: AddressPlan
    routes: tuple[IPv4Network | IPv6Network, ...] = ()
    mtu: int = MTU
    keepalive: int = KEEPALIVE

    @classmethod
    def make(
        cls,
        device: Device,
        plan: AddressPlan,
        *,
        private_key: bytes | None,
        preshared_key: bytes | None,
        server_public_key: bytes,
        endpoint: HostPort,
        routes: Iterable[IPv4Network | IPv6Network] = (),
    ) -> ProfileInput:
        """The input for a device of the registry."""
        return cls(
            device.name,
            private_key,
            preshared_key,
            server_public_key,
            endpoint,
            None if device.ipv4 is None else IPv4Address(device.ipv4),
            IPv6Address(device.ipv6),
            plan,
            tuple(routes),
        )

    @property
    def allowed_ipv4(self) -> list[IPv4Network]:
        """IPv4 prefixes that a routing client sends into the tunnel."""
        if self.ipv4 is None:
            return []
        routes = [route for route in self.routes if isinstance(route, IPv4Network)]
        return list(collapse_addresses([self.plan.ipv4, TAILNET_IPV4, *routes]))

    @property
    def allowed_ipv6(self) -> list[IPv6Network]:
        """IPv6 prefixes that a routing client sends into the tunnel."""
        routes = [route for route in self.routes if isinstance(route, IPv6Network)]
        return list(collapse_addresses([self.plan.ipv6, TAILNET_IPV6, *routes]))

    @property
    def addresses(self) -> list[str]:
        """The device's own addresses, IPv6 first."""
        return [str(self.ipv6)] + ([] if self.ipv4 is None else [str(self.ipv4)])

    @property
    def dns(self) -> list[str]:
        """The gateway's addresses, where it answers DNS."""
        return [str(self.plan.gateway6)] + ([] if self.ipv4 is None else [str(self.plan.gateway4)])

    @property
    def private_key_text(self) -> str:
        """The private key, or a placeholder that says what belongs there."""
        return PLACEHOLDER if self.private_key is None else keys.encode(self.private_key)

    @property
    def preshared_key_text(self) -> str | None:
        """The preshared key, if there is one."""
        return None if self.preshared_key is None else keys.encode(self.preshared_key)

    @property
    def server_public_key_text(self) -> str:
        """The gateway's public key."""
        return keys.encode(self.server_public_key)
