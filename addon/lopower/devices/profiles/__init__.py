"""What each kind of client is given: one renderer per client, one table of what they can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..device import Addressing
from ..errors import UserError
from ..hosts import HostPort
from . import arduino, esphome, tasmota, wg_quick
from .input import KEEPALIVE, MTU, ProfileInput

__all__ = ["KEEPALIVE", "KINDS", "MTU", "Kind", "ProfileInput", "kind", "render"]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of client: how to write for it and what it cannot do."""

    name: str
    title: str
    write: Callable[[ProfileInput], str]
    ipv6: bool  # can use IPv6 in the tunnel and as an endpoint
    names: bool  # can be given an endpoint by name
    addressing: Addressing
    fragments_ok: bool
    needs_preshared_key: bool = False
    qr: bool = False

    def check(self, endpoint: HostPort, ipv4: bool) -> None:
        """UserError when such a client cannot work with this gateway."""
        if self.ipv6:
            return
        if not ipv4:
            raise UserError(f"{self.title} speaks only IPv4 in the tunnel, and IPv4 is off.")
        if endpoint.version == 6:
            raise UserError(
                f"{self.title} cannot reach a gateway at an IPv6 endpoint ({endpoint.host}): "
                "give the gateway's IPv4 address with --endpoint."
            )
        if endpoint.version is None and not self.names:
            raise UserError(
                f"{self.title} needs the gateway's IPv4 address, not the name {endpoint.host}: "
                "give it with --endpoint."
            )


KINDS = {
    kind.name: kind
    for kind in (
        Kind("wg-quick", "wg-quick", wg_quick.write, True, True, "native", True, qr=True),
        Kind("esphome", "ESPHome", esphome.write, False, True, "alias", False),
        Kind(
            "tasmota",
            "Tasmota",
            tasmota.write,
            False,
            False,
            "alias",
            False,
            needs_preshared_key=True,
        ),
        Kind("arduino", "An Arduino sketch", arduino.write, False, True, "alias", False),
    )
}


def kind(name: str) -> Kind:
    """The kind of client a user means."""
    try:
        return KINDS[name]
    except KeyError:
        known = ", ".join(KINDS)
        raise UserError(f"There is no profile called '{name}': choose from {known}.") from None


def render(name: str, profile: ProfileInput) -> str:
    """The file for a client, or the sentence why it cannot be."""
    chosen = kind(name)
    chosen.check(profile.endpoint, profile.ipv4 is not None)
    return chosen.write(profile)
