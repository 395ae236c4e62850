"""What the registry knows about one device."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Literal

from lopower.endpoint import Endpoint

Addressing = Literal["native", "alias"]
Purpose = Literal["enrol", "rotate"]


@dataclass(frozen=True, slots=True)
class Device:
    """One enrolled device; inner addresses are packed, `ipv4` is None while IPv4 is off."""

    id: str
    name: str
    public_key: bytes
    preshared_key: bytes | None = field(repr=False)
    ipv4: bytes | None
    ipv6: bytes
    profile: str
    enabled: bool
    created: float
    rules: tuple[str, ...] = ()
    addressing: Addressing = "native"
    fragments_ok: bool = True
    last_endpoint: Endpoint | None = None
    last_handshake: float | None = None
    timestamp_mark: bytes | None = None
    rx_bytes: int = 0
    tx_bytes: int = 0

    @property
    def addresses(self) -> list[str]:
        """The device's tunnel addresses as text, IPv4 first."""
        packed = [self.ipv6] if self.ipv4 is None else [self.ipv4, self.ipv6]
        return [str(ip_address(address)) for address in packed]


@dataclass(frozen=True, slots=True)
class Pending:
    """Keys handed out that no handshake has used yet.

    `enrol`: the keys are the device's own. `rotate`: the device's old keys stay valid until
    the first handshake with these. `private_key` is None once it has been erased, or when the
    device made its own.
    """

    device_id: str
    purpose: Purpose
    public_key: bytes
    preshared_key: bytes | None = field(repr=False)
    private_key: bytes | None = field(repr=False)
    expires: float | None


@dataclass(frozen=True, slots=True)
class Runtime:
    """What changes while a device talks; saved in batches."""

    device_id: str
    last_endpoint: Endpoint | None
    last_handshake: float | None
    timestamp_mark: bytes | None
    rx_bytes: int
    tx_bytes: int
