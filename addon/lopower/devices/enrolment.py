"""Enrolment: a new device or new keys, and the profile its user carries to it.

A private key that was made here lives in the registry until the first handshake, or until the
time limit, so that its profile can be shown again. Keys of a rotation take over at their first
handshake; until then, however long that takes, the old ones work.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network

from . import keys, names, profiles
from .device import Device
from .errors import Conflict, UserError
from .hosts import HostPort
from .profiles import ProfileInput
from .registry import Registry

# Long enough to walk to a device tomorrow, short enough that keys do not lie about.
TIME_LIMIT = 24 * 3600.0

Network = IPv4Network | IPv6Network
Routes = Callable[[tuple[str, ...]], list[Network]]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """A device, the text its client reads, and when that text can no longer be shown."""

    device: Device
    profile: str = field(repr=False)
    expires: float | None


@dataclass(frozen=True, slots=True)
class Keys:
    """What one side of an enrolment needs; `private` is None when the device made its own."""

    public: bytes
    preshared: bytes | None = field(repr=False)
    private: bytes | None = field(repr=False)
    expires: float | None

    @classmethod
    def make(cls, public_key: str | None, psk: bool, expires: float) -> Keys:
        """Fresh keys, or the device's own public key and a fresh preshared one."""
        preshared = keys.preshared() if psk else None
        if public_key is None:
            pair = keys.generate()
            return cls(pair.public, preshared, pair.private, expires)
        return cls(keys.parse_public(public_key), preshared, None, None)


class Enroller:
    """Enrols devices and renews their keys."""

    def __init__(
        self,
        registry: Registry,
        routes: Routes,
        clock: Callable[[], float],
        time_limit: float = TIME_LIMIT,
    ) -> None:
        self._registry = registry
        self._routes = routes
        self._clock = clock
        self._time_limit = time_limit

    def enroll(
        self,
        name: str,
        profile: str,
        endpoint: HostPort,
        *,
        public_key: str | None = None,
        psk: bool = True,
        rules: tuple[str, ...] = (),
    ) -> Enrolment:
        """A new device; nothing is kept when its profile cannot be written."""
        kind = profiles.kind(profile)
        name = names.parse(name)
        if not psk and kind.needs_preshared_key:
            raise UserError(f"{kind.title} needs a preshared key.")
        made = Keys.make(public_key, psk, self._clock() + self._time_limit)
        self._routes(rules)
        kind.check(endpoint, self._registry.settings().ipv4)
        device = self._registry.add_device(
            name,
            profile,
            made.public,
            made.preshared,
            private_key=made.private,
            expires=made.expires,
            addressing=kind.addressing,
            fragments_ok=kind.fragments_ok,
            rules=rules,
        )
        return self._enrolment(device, made, endpoint)

    def rotate(
        self,
        name: str,
        endpoint: HostPort,
        *,
        public_key: str | None = None,
        psk: bool = True,
        now: bool = False,
    ) -> Enrolment:
        """New keys: from their first handshake on, or `now` for a device that was lost."""
        device = self._registry.find(name)
        kind = profiles.kind(device.profile)
        if not psk and kind.needs_preshared_key:
            raise UserError(f"{kind.title} needs a preshared key.")
        made = Keys.make(public_key, psk, self._clock() + self._time_limit)
        if made.public == device.public_key:
            raise Conflict(f"The device '{device.name}' already has this public key.")
        kind.check(endpoint, self._registry.settings().ipv4)
        values = (device.id, made.public, made.preshared, made.private, made.expires)
        if now:
            device = self._registry.replace_keys(*values)
        else:
            self._registry.set_pending_rotation(*values)
        return self._enrolment(device, made, endpoint)

    def again(self, name: str, endpoint: HostPort) -> Enrolment:
        """The profile once more, while its private key is still here."""
        device = self._registry.find(name)
        pending = self._registry.pending_for(device.id)
        if pending is None:
            raise Conflict(
                f"The device '{device.name}' is enrolled and its private key erased: "
                f"'lopower rotate {device.name}' makes a new profile."
            )
        if pending.private_key is None and pending.expires is not None:
            raise Conflict(
                f"The profile of '{device.name}' has expired: "
                f"'lopower rotate {device.name}' makes a new one."
            )
        made = Keys(pending.public_key, pending.preshared_key, pending.private_key, pending.expires)
        return self._enrolment(device, made, endpoint)

    def _enrolment(self, device: Device, made: Keys, endpoint: HostPort) -> Enrolment:
        profile = self._profile_input(device, made, endpoint)
        return Enrolment(device, profiles.render(device.profile, profile), made.expires)

    def _profile_input(self, device: Device, made: Keys, endpoint: HostPort) -> ProfileInput:
        plan = self._registry.settings().plan
        return ProfileInput.make(
            device,
            plan,
            private_key=made.private,
            preshared_key=made.preshared,
            server_public_key=self._registry.server_public_key,
            endpoint=endpoint,
            routes=self._routes(device.rules),
        )
