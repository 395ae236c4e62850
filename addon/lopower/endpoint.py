"""Where a WireGuard peer was last heard: an outer IP address and UDP port."""

from __future__ import annotations

import ipaddress
from typing import NamedTuple


class Endpoint(NamedTuple):
    """An outer address; IPv4 is written as IPv4, never as ::ffff:a.b.c.d."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def packed(self) -> bytes:
        """The address (4 or 16 bytes) and the port (2 bytes, big-endian)."""
        return ipaddress.ip_address(self.host).packed + self.port.to_bytes(2)

    def source_prefix(self) -> bytes:
        """What a rate limit counts as one source: an IPv4 address or an IPv6 /64."""
        packed = ipaddress.ip_address(self.host).packed
        return packed if len(packed) == 4 else packed[:8]
