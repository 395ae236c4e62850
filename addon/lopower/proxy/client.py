"""What the proxy keeps about one device: its policy, its refusals, its flows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from lopower.proxy.policy import Policy
from lopower.proxy.refusals import Refusals

if TYPE_CHECKING:
    from lopower.proxy.tcp import TcpRelay
    from lopower.proxy.udp import UdpMapping

# A phone with a busy browser holds some 500; the sum over all devices is bounded by the sockets.
MAX_TCP_FLOWS = 16384
MAX_UDP_MAPPINGS = 16384
MAX_DIALS = 256  # connects in flight: above this the device is scanning


class Client:
    """One device, as long as it is enabled."""

    __slots__ = ("dials", "fragments", "link", "mappings", "name", "policy", "refusals", "relays")

    def __init__(self, link: Any, name: str, policy: Policy, *, fragments: bool) -> None:
        self.link = link
        self.name = name
        self.policy = policy
        self.fragments = fragments  # whether it can reassemble what we send
        self._reset()

    def _reset(self) -> None:
        self.refusals: Refusals | None = None  # most devices are never refused anything
        self.relays: set[TcpRelay] = set()
        self.mappings: dict[tuple[bytes, int], UdpMapping] = {}
        self.dials = 0

    def refused(
        self, destination: bytes, port: int, protocol: str, reason: str, now: float
    ) -> bool:
        """Count a refusal; True where it is new."""
        if self.refusals is None:
            self.refusals = Refusals()
        return self.refusals.add(destination, port, protocol, reason, now)

    def flows(self) -> Iterator[TcpRelay | UdpMapping]:
        """Everything this device has open."""
        yield from self.relays
        yield from self.mappings.values()

    def close(self) -> None:
        """End every flow of this device."""
        for relay in list(self.relays):
            relay.abort()
        for mapping in list(self.mappings.values()):
            mapping.close()
        self._reset()
