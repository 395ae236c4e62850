"""Keeps WireGuard, the proxy and DNS in step with the devices of the registry, and the registry in
step with what WireGuard sees of them."""

from __future__ import annotations

import logging
import time
from ipaddress import ip_address, ip_network

from lopower.devices.device import Device, Pending, Runtime
from lopower.devices.registry import Registry
from lopower.dns.server import Server
from lopower.proxy.client import Client
from lopower.proxy.policy import Context, Policy, parse_rules
from lopower.proxy.proxy import Proxy
from lopower.wireguard import EndpointChanged, HandshakeCompleted, Interface, Peer

log = logging.getLogger(__name__)


class Member:
    """A device and what of it lives in this process."""

    __slots__ = (
        "base_rx",
        "base_tx",
        "device",
        "handshake",
        "peer",
        "rotation",
        "saved",
    )

    def __init__(self, device: Device, peer: Peer) -> None:
        self.device = device
        self.peer = peer
        self.rotation: Peer | None = None  # new keys that wait for their first handshake
        self.base_rx, self.base_tx = self.saved = device.rx_bytes, device.tx_bytes
        self.handshake = device.last_handshake

    @property
    def rx_bytes(self) -> int:
        return self.base_rx + self.peer.rx_bytes

    @property
    def tx_bytes(self) -> int:
        return self.base_tx + self.peer.tx_bytes


class Roster:
    """All enabled devices: `load` once, then `refresh` whatever changed in the registry."""

    def __init__(
        self,
        registry: Registry,
        interface: Interface,
        proxy: Proxy,
        names: Server,
        context: Context,
    ) -> None:
        self._registry = registry
        self._interface = interface
        self._proxy = proxy
        self._names = names
        self._context = context
        self._default = Policy(None, context)
        self._pending: dict[str, Pending] = {}
        self._dirty: set[str] = set()
        self._by_peer: dict[Peer, Member] = {}
        self._names_by_id: dict[str, str] = {}
        self.members: dict[str, Member] = {}
        self.awaited: list[Peer] = []  # to be called, once the gateway runs

    def load(self) -> None:
        """Take in every device of the registry."""
        self._pending = {pending.device_id: pending for pending in self._registry.pending()}
        for device in self._registry.devices():
            self._names_by_id[device.id] = device.name
            if device.enabled:
                self._update(device)
        self._name_all()

    def refresh(self, device_id: str) -> None:
        """One device was enrolled, changed or revoked; the others are not disturbed."""
        device, pending = self._registry.device(device_id), self._registry.pending_for(device_id)
        member = self.members.get(device_id)
        self._pending.pop(device_id, None)
        if pending is not None:
            self._pending[device_id] = pending
        if member is not None and (
            device is None or not device.enabled or _identity(device) != _identity(member.device)
        ):
            self._remove(member)
        if device is not None and device.enabled:
            self._update(device)
        self._rename(device_id, device)

    def _rename(self, device_id: str, device: Device | None) -> None:
        before = self._names_by_id.pop(device_id, None)
        if device is not None:
            self._names_by_id[device_id] = device.name
            if before is None:
                self._names.add_local_name(device.name, (device.ipv4, device.ipv6))
                return
        if before is not None and (device is None or device.name != before):
            self._name_all()

    def _name_all(self) -> None:
        devices = self._registry.devices()
        self._names.set_local_names({d.name: (d.ipv4, d.ipv6) for d in devices})

    def _update(self, device: Device) -> None:
        member = self.members.get(device.id)
        if member is None:
            member = self._add(device)
            # Its endpoint is known from before: it need not wait until it speaks.
            if device.last_endpoint is not None:
                self.awaited.append(member.peer)
        elif member.device.rules != device.rules or member.device.name != device.name:
            client = self._proxy.client(member.peer)
            assert client is not None
            client.name, client.policy = device.name, self._policy(device)
        member.device = device
        self._rotate(member, self._pending.get(device.id))

    def _add(self, device: Device) -> Member:
        peer = self._interface.add_peer(
            device.public_key,
            preshared_key=device.preshared_key,
            allowed_ips=[ip_network(address) for address in device.addresses],
            endpoint=device.last_endpoint,
            last_timestamp=device.timestamp_mark,
        )
        member = self.members[device.id] = self._by_peer[peer] = Member(device, peer)
        self._serve(member)
        return member

    def _serve(self, member: Member) -> None:
        device = member.device
        policy = self._policy(device)
        self._proxy.add_client(
            Client(member.peer, device.name, policy, fragments=device.fragments_ok)
        )

    def _rotate(self, member: Member, pending: Pending | None) -> None:
        wanted = pending.public_key if pending and pending.purpose == "rotate" else None
        if member.rotation is not None and member.rotation.public_key != wanted:
            self._by_peer.pop(member.rotation, None)
            self._interface.remove_peer(member.rotation)
            member.rotation = None
        if pending is not None and wanted is not None and member.rotation is None:
            member.rotation = self._interface.add_peer(wanted, preshared_key=pending.preshared_key)
            self._by_peer[member.rotation] = member

    def _remove(self, member: Member) -> None:
        self._save([member])
        self._proxy.remove_client(member.peer)
        for peer in (member.peer, member.rotation):
            if peer is not None:
                self._interface.remove_peer(peer)
                self._by_peer.pop(peer, None)
        del self.members[member.device.id]

    def set_context(self, context: Context) -> None:
        """The host's surroundings have changed: every policy decides anew."""
        self._context = context
        self._default.set_context(context)
        for member in self.members.values():
            if member.device.rules:
                client = self._proxy.client(member.peer)
                assert client is not None
                client.policy.set_context(context, parse_rules(member.device.rules))

    def policies(self) -> set[Policy]:
        """Every policy in force; devices without rules of their own share one."""
        return {client.policy for client in self._proxy.clients()} | {self._default}

    def pins(self) -> dict[str, tuple[bytes, ...]]:
        """The addresses that names in rules stand for at the moment."""
        found: dict[str, tuple[bytes, ...]] = {}
        for policy in self.policies():
            found.update(policy.pins)
        return found

    def _policy(self, device: Device) -> Policy:
        if not device.rules:
            return self._default
        return Policy(parse_rules(device.rules), self._context)

    # -- what WireGuard sees ------------------------------------------------------------------

    def handshake(self, event: HandshakeCompleted) -> None:
        """A device is there; with new keys, they are now its keys."""
        member = self._by_peer.get(event.peer)
        if member is None:
            return
        log.info("%s: handshake with %s", member.device.name, event.peer.endpoint)
        member.handshake = time.time()
        self._dirty.add(member.device.id)
        if member.device.id in self._pending:
            self._settle_keys(member, event.peer)

    def _settle_keys(self, member: Member, peer: Peer) -> None:
        """The first handshake with pending keys: from now on they are the device's."""
        pending = self._pending[member.device.id]
        if pending.public_key != peer.public_key:
            return  # the old keys are still in use
        device = self._registry.enrolment_finished(member.device.id)
        del self._pending[member.device.id]
        if device is not None and peer is member.rotation:
            self._promote(member, device)

    def _promote(self, member: Member, device: Device) -> None:
        """The rotated keys' session goes on as the device's own."""
        old, new = member.peer, member.rotation
        assert new is not None
        member.base_rx, member.base_tx = member.rx_bytes, member.tx_bytes
        self._proxy.remove_client(old)
        self._interface.remove_peer(old)
        del self._by_peer[old]
        self._interface.set_allowed_ips(new, [ip_network(a) for a in device.addresses])
        member.peer, member.rotation, member.device = new, None, device
        self._serve(member)

    def moved(self, event: EndpointChanged) -> None:
        """A device speaks from another address."""
        member = self._by_peer.get(event.peer)
        if member is not None:
            self._dirty.add(member.device.id)

    def forget_timestamp(self, device_id: str) -> None:
        """Accept whatever time the device's next handshake carries."""
        member = self.members.get(device_id)
        if member is not None:
            self._interface.forget_timestamp(member.peer)

    def member_of(self, peer: Peer) -> Member | None:
        return self._by_peer.get(peer)

    def addresses_of(self, name: str) -> list[bytes]:
        """The inner addresses of the device with this name in the gateway's zone."""
        label = name.partition(".")[0]
        for member in self.members.values():
            if member.device.name == label:
                return [ip_address(address).packed for address in member.device.addresses]
        return []

    def at(self, address: str) -> Member | None:
        """The device with this inner address."""
        peer = self._interface.peer_for(ip_address(address).packed)
        return self._by_peer.get(peer) if peer is not None else None

    @property
    def unsaved(self) -> bool:
        """Something is worth saving soon."""
        return bool(self._dirty)

    def save(self, *, counters: bool = False) -> None:
        """Write what changed to the registry; with `counters`, all devices that talked."""
        members = [self.members[i] for i in self._dirty if i in self.members]
        if counters:
            members = [m for m in self.members.values() if m.saved != (m.rx_bytes, m.tx_bytes)]
        self._dirty.clear()
        self._save(members)

    def _save(self, members: list[Member]) -> None:
        for member in members:
            member.saved = member.rx_bytes, member.tx_bytes
        if members:
            self._registry.save_runtime(
                Runtime(
                    m.device.id,
                    m.peer.endpoint,
                    m.handshake,
                    m.peer.last_timestamp,
                    m.rx_bytes,
                    m.tx_bytes,
                )
                for m in members
            )


def _identity(device: Device) -> tuple[object, ...]:
    """What makes a device another one to WireGuard when it changes."""
    return (
        device.public_key,
        device.preshared_key,
        device.ipv4,
        device.ipv6,
        device.fragments_ok,
    )
