"""What can be done with devices, as operations on plain JSON values.

The gateway and the command line run this same code: a running gateway serves it over its control
socket, otherwise a command runs it by itself. Every refusal is a UserError of one sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import voluptuous as vol

from lopower import __version__

from . import keys, names
from .device import Device, Pending
from .enrolment import Enroller, Enrolment, Network, Routes
from .errors import Conflict, NotFound, UserError
from .hosts import HostPort, guess_host, parse_host_port
from .registry import Registry

# A device that has said nothing for as long as a session lives is not there any more.
ONLINE_SECONDS = 180.0

Json = dict[str, Any]
ChangeKind = Literal["enrolled", "changed", "rotated", "revoked", "settings"]


@dataclass(frozen=True, slots=True)
class Change:
    """What an operation did; `device` as it is now, or as it was when it was revoked."""

    kind: ChangeKind
    device: Device | None = None


class Live(Protocol):
    """What only a running gateway knows; all values JSON, all times unix seconds."""

    def device(self, device_id: str) -> Mapping[str, Any] | None:
        """Values that overrule the registry's: online, last_handshake, endpoint (text), rx_bytes,
        tx_bytes; and more to show: last_seen, clock_offset (seconds), unanswered_since,
        tcp_flows, udp_flows, refused. Without `online` it follows from the times."""
        ...

    def status(self) -> Mapping[str, Any]:
        """Values about the gateway: started, listen_port, backend, tcp_flows, udp_flows, …"""
        ...

    def knocks(self) -> Sequence[Mapping[str, Any]]:
        """Handshakes that were refused: kind ("unknown public key" or "wrong server key"),
        source (text), count, last."""
        ...

    def flows(self) -> Sequence[Mapping[str, Any]]:
        """Open flows: device, protocol, address, port, sent, received, age (seconds)."""
        ...

    def refusals(self, device_id: str) -> Sequence[Mapping[str, Any]]:
        """What a device was refused: address, port, protocol, reason, count."""
        ...


class Administration:
    """The operations; `call` runs one by name with JSON arguments."""

    def __init__(
        self,
        registry: Registry,
        *,
        live: Live | None = None,
        on_change: Callable[[Change], None] | None = None,
        routes: Callable[[tuple[str, ...]], Sequence[Network]] | None = None,
        endpoint: HostPort | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`routes` checks rules (ValueError) and gives their prefixes; `endpoint` overrules."""
        self.registry = registry
        self.endpoint = endpoint
        self._live = live
        self._on_change = on_change
        self._routes = routes
        self._clock = clock
        self._enroller = Enroller(registry, self._checked(), clock)

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation of OPERATIONS with named arguments."""
        entry = OPERATIONS.get(operation)
        if entry is None:
            raise NotFound(f"There is no operation called {names.show(operation)}.")
        method, schema = entry
        try:
            checked = schema(dict(arguments))
        except vol.Invalid as error:
            where = ".".join(map(str, error.path)) or "the arguments"
            raise UserError(f"{operation}: {error.error_message} ({where}).") from None
        return method(self, **checked)

    # Operations

    def enroll(
        self,
        name: str,
        profile: str = "wg-quick",
        public_key: str | None = None,
        psk: bool = True,
        rules: Sequence[str] = (),
        endpoint: str | None = None,
    ) -> Json:
        """A new device and the file for its client."""
        where = self.client_endpoint(endpoint)
        enrolment = self._enroller.enroll(
            name, profile, where, public_key=public_key, psk=psk, rules=tuple(rules)
        )
        self._announce(Change("enrolled", enrolment.device))
        return self._enrolment(enrolment, where)

    def rotate(
        self,
        name: str,
        public_key: str | None = None,
        psk: bool = True,
        now: bool = False,
        endpoint: str | None = None,
    ) -> Json:
        """New keys for a device, valid from their first handshake on, or `now`."""
        where = self.client_endpoint(endpoint)
        enrolment = self._enroller.rotate(name, where, public_key=public_key, psk=psk, now=now)
        self._announce(Change("rotated", enrolment.device))
        return self._enrolment(enrolment, where)

    def profile(self, name: str, endpoint: str | None = None) -> Json:
        """The file for a device's client again, until it has connected or the time is up."""
        self.registry.expire(self._clock())
        where = self.client_endpoint(endpoint)
        return self._enrolment(self._enroller.again(name, where), where)

    def devices(self) -> list[Json]:
        """Every device, without its secrets."""
        pending = {entry.device_id: entry for entry in self.registry.pending()}
        return [self._describe(d, pending.get(d.id)) for d in self.registry.devices()]

    def show(self, name: str) -> Json:
        """One device, without its secrets, and what it was refused."""
        device = self.registry.find(name)
        refusals = self._live.refusals(device.id) if self._live else ()
        return self._shown(device) | {"refusals": [dict(refusal) for refusal in refusals]}

    def rename(self, name: str, new_name: str) -> Json:
        """Another name for a device."""
        device = self.registry.find(name)
        return self._changed(self.registry.rename(device.id, names.parse(new_name)))

    def enable(self, name: str) -> Json:
        """Let a device in again."""
        return self._changed(self.registry.set_enabled(self.registry.find(name).id, True))

    def disable(self, name: str) -> Json:
        """Keep a device out, remembering everything about it."""
        return self._changed(self.registry.set_enabled(self.registry.find(name).id, False))

    def rules(self, name: str, rules: Sequence[str]) -> Json:
        """Replace the list of what a device may reach."""
        device = self.registry.find(name)
        self._checked()(tuple(rules))
        return self._changed(self.registry.set_rules(device.id, rules))

    def addressing(self, name: str, addressing: str) -> Json:
        """Which addresses DNS gives a device: `native` or `alias`."""
        device = self.registry.find(name)
        return self._changed(self.registry.set_addressing(device.id, addressing))

    def forget_timestamp(self, name: str) -> Json:
        """Accept a device whose clock went back."""
        return self._changed(self.registry.forget_timestamp(self.registry.find(name).id))

    def revoke(self, name: str) -> Json:
        """Shut a device out for good and forget its keys."""
        device = self.registry.find(name)
        described = self._shown(device)
        self.registry.revoke(device.id)
        self._announce(Change("revoked", device))
        return described

    def settings(self, changes: Mapping[str, Any] | None = None) -> Json:
        """The settings, some of them changed; all but the endpoint while no gateway runs."""
        if changes:
            if self._live is not None and set(changes) - {"endpoint"}:
                raise Conflict("Stop the gateway before changing its port or its addresses.")
            self.registry.save_settings(**changes)
            self._announce(Change("settings"))
        return self.registry.settings().as_dict()

    def status(self) -> Json:
        """The gateway at a glance."""
        settings, devices = self.registry.settings(), self.devices()
        addresses = [settings.plan.gateway4] if settings.ipv4 else []
        own = {
            "running": self._live is not None,
            "version": __version__,
            "gateway_id": self.registry.gateway_id,
            "public_key": keys.encode(self.registry.server_public_key),
            "addresses": [str(address) for address in (*addresses, settings.plan.gateway6)],
            "listen_port": settings.listen_port,
            "endpoint": self._endpoint_text(),
            "endpoint_guessed": self.endpoint_guessed,
        }
        totals = {
            "devices": len(devices),
            "online": sum(bool(device["online"]) for device in devices),
            "pending": sum(device["pending"] is not None for device in devices),
            "rx_bytes": sum(device["rx_bytes"] for device in devices),
            "tx_bytes": sum(device["tx_bytes"] for device in devices),
        }
        return own | dict(self._live.status() if self._live else {}) | totals

    def knocks(self) -> list[Json]:
        """Handshakes that the running gateway had to refuse."""
        return [dict(knock) for knock in self._live.knocks()] if self._live else []

    def flows(self) -> list[Json]:
        """Every open flow of the running gateway."""
        return [dict(flow) for flow in self._live.flows()] if self._live else []

    # Where clients find the gateway

    @property
    def endpoint_guessed(self) -> bool:
        """Whether nobody has said how clients reach the gateway."""
        return self.registry.settings().endpoint is None

    def client_endpoint(self, wanted: str | None = None) -> HostPort:
        """The address and port that a profile names."""
        settings = self.registry.settings()
        port = self.endpoint.port if self.endpoint else settings.listen_port
        if wanted is not None:
            return parse_host_port(wanted, port)
        if self.endpoint is not None:
            return self.endpoint
        host = settings.endpoint or guess_host()
        if host is None:
            raise UserError(
                "This machine has no network address to give to a device: "
                "say with --endpoint how devices reach it."
            )
        return parse_host_port(host, port)

    def _endpoint_text(self) -> str | None:
        try:
            return str(self.client_endpoint())
        except UserError:
            return None

    # Within

    def _checked(self) -> Routes:
        def routes(rules: tuple[str, ...]) -> list[Network]:
            try:
                return list(self._routes(rules)) if self._routes else []
            except ValueError as error:
                raise UserError(str(error)) from None

        return routes

    def _announce(self, change: Change) -> None:
        if self._on_change is not None:
            self._on_change(change)

    def _changed(self, device: Device) -> Json:
        self._announce(Change("changed", device))
        return self._shown(device)

    def _enrolment(self, enrolment: Enrolment, where: HostPort) -> Json:
        device = enrolment.device
        pending = self.registry.pending_for(device.id)
        return {
            "id": device.id,
            "name": device.name,
            "addresses": device.addresses,
            "public_key": keys.encode(pending.public_key if pending else device.public_key),
            "profile": enrolment.profile,
            "expires": enrolment.expires,
            "kind": device.profile,
            "endpoint": str(where),
            "endpoint_guessed": self.endpoint_guessed,
        }

    def _shown(self, device: Device) -> Json:
        return self._describe(device, self.registry.pending_for(device.id))

    def _describe(self, device: Device, pending: Pending | None) -> Json:
        live: Json = dict(self._live.device(device.id) or {}) if self._live else {}
        described: Json = {
            "id": device.id,
            "name": device.name,
            "addresses": device.addresses,
            "public_key": keys.encode(device.public_key),
            "profile": device.profile,
            "enabled": device.enabled,
            "addressing": device.addressing,
            "rules": list(device.rules),
            "created": device.created,
            "pending": _pending(pending),
            "online": False,
            "last_handshake": device.last_handshake,
            "endpoint": None if device.last_endpoint is None else str(device.last_endpoint),
            "rx_bytes": device.rx_bytes,
            "tx_bytes": device.tx_bytes,
        }
        described |= live
        if self._live is not None and "online" not in live:
            heard = live.get("last_seen") or described["last_handshake"] or 0.0
            described["online"] = device.enabled and self._clock() - heard <= ONLINE_SECONDS
        return described


def _pending(pending: Pending | None) -> Json | None:
    if pending is None:
        return None
    return {
        "purpose": pending.purpose,
        "expires": pending.expires,
        "profile_available": pending.private_key is not None,
    }


_NAME = {vol.Required("name"): str}
_KEYS = {
    vol.Optional("public_key"): vol.Any(None, str),
    vol.Optional("psk"): bool,
    vol.Optional("endpoint"): vol.Any(None, str),
}
_CHANGES = {
    vol.Optional("listen_port"): int,
    vol.Optional("endpoint"): vol.Any(None, str),
    vol.Optional("ipv4"): bool,
    vol.Optional("ipv4_range"): str,
    vol.Optional("ipv6_range"): str,
}
_ARGUMENTS: dict[str, dict[Any, Any]] = {
    "enroll": {
        **_NAME,
        **_KEYS,
        vol.Optional("profile"): str,
        vol.Optional("rules"): [str],
    },
    "rotate": {**_NAME, **_KEYS, vol.Optional("now"): bool},
    "profile": {**_NAME, vol.Optional("endpoint"): vol.Any(None, str)},
    "devices": {},
    "show": _NAME,
    "rename": {**_NAME, vol.Required("new_name"): str},
    "enable": _NAME,
    "disable": _NAME,
    "rules": {**_NAME, vol.Required("rules"): [str]},
    "addressing": {**_NAME, vol.Required("addressing"): vol.In(["native", "alias"])},
    "forget_timestamp": _NAME,
    "revoke": _NAME,
    "settings": {vol.Optional("changes"): vol.Any(None, _CHANGES)},
    "status": {},
    "knocks": {},
    "flows": {},
}
OPERATIONS: dict[str, tuple[Callable[..., Any], vol.Schema]] = {
    name: (getattr(Administration, name), vol.Schema(arguments))
    for name, arguments in _ARGUMENTS.items()
}
