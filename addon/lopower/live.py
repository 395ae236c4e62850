"""What a running gateway knows at this moment, as plain values for people and programs."""

from __future__ import annotations

import resource
import time
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

from lopower import __version__
from lopower.devices.administration import ONLINE_SECONDS
from lopower.devices.keys import encode
from lopower.endpoint import Endpoint
from lopower.proxy.client import Client
from lopower.proxy.tcp import TcpRelay
from lopower.proxy.udp import UdpMapping
from lopower.roster import Member
from lopower.wireguard import (
    ClockWrong,
    Event,
    HandshakeCompleted,
    HandshakeGaveUp,
    UnknownPeer,
    WrongServerKey,
)

if TYPE_CHECKING:
    from lopower.gateway import Gateway

MAX_KNOCKS = 64  # sources remembered that tried with a wrong key: the newest matter


class Live:
    """Answers from the objects themselves: nothing here is a second truth."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._started = time.time()
        self._knocks: dict[tuple[str, str, str | None], dict[str, Any]] = {}
        self._unanswered: dict[str, int] = {}  # by device: how often our handshakes came to nothing
        self._clock: dict[str, float] = {}  # by device: how far its clock is ahead, in seconds

    def note(self, event: Event) -> None:
        """Remember what `doctor` will ask for."""
        if isinstance(event, UnknownPeer):
            self._knock("unknown-key", event.source, 1, encode(event.public_key))
        elif isinstance(event, WrongServerKey):
            self._knock("wrong-server-key", event.source, event.count)
        elif isinstance(event, HandshakeGaveUp | HandshakeCompleted | ClockWrong):
            member = self._gateway.roster.member_of(event.peer)
            if member is not None:
                self._note_device(member, event)

    def _note_device(
        self, member: Member, event: HandshakeGaveUp | HandshakeCompleted | ClockWrong
    ) -> None:
        device, endpoint = member.device.id, event.peer.endpoint
        if isinstance(event, HandshakeGaveUp):
            self._unanswered[device] = self._unanswered.get(device, 0) + 1
            self._knock("unanswered", endpoint, 1, encode(event.peer.public_key))
        elif isinstance(event, ClockWrong):
            self._clock[device] = event.offset
            self._knock("clock", endpoint, 1, encode(event.peer.public_key))
        else:
            self._unanswered.pop(device, None)
            if event.clock_offset is not None:
                self._clock[device] = event.clock_offset

    def _knock(
        self, reason: str, source: Endpoint | None, count: int, public_key: str | None = None
    ) -> None:
        key = (reason, source.host if source else "", public_key)
        seen = self._knocks.pop(key, {"count": 0})
        if len(self._knocks) >= MAX_KNOCKS:
            del self._knocks[next(iter(self._knocks))]
        self._knocks[key] = {
            "reason": reason,
            "endpoint": str(source) if source else None,
            "public_key": public_key,
            "count": seen["count"] + count,
            "last": time.time(),
        }

    def knocks(self) -> list[dict[str, Any]]:
        """Handshakes that came to nothing, the newest first."""
        return list(reversed(self._knocks.values()))

    def device(self, device_id: str) -> dict[str, Any]:
        """Online, endpoint, counters and flows of one device."""
        member = self._gateway.roster.members.get(device_id)
        if member is None:
            return {"online": False}
        client = self._gateway.proxy.client(member.peer)
        endpoint = member.peer.endpoint
        return {
            "online": self._online(member),
            "last_handshake": member.handshake,
            "endpoint": str(endpoint) if endpoint else None,
            "rx_bytes": member.rx_bytes,
            "tx_bytes": member.tx_bytes,
            "clock_offset": self._clock.get(device_id),
            "unanswered": self._unanswered.get(device_id, 0),
            "tcp_flows": len(client.relays) if client else 0,
            "udp_flows": len(client.mappings) if client else 0,
            "refused": client.refusals.total if client and client.refusals else 0,
        }

    def _online(self, member: Member) -> bool:
        peer = member.peer
        heard = max(peer.received_at, peer.last_handshake or peer.received_at)
        return heard > self._gateway.now() - ONLINE_SECONDS

    def status(self) -> dict[str, Any]:
        """The gateway as a whole."""
        gateway = self._gateway
        members = gateway.roster.members.values()
        clients = list(gateway.proxy.clients())
        return {
            "version": __version__,
            "running": True,
            "started": self._started,
            "listen_port": gateway.outer.port,
            "backend": gateway.config.backend,
            "addresses": [str(ip_address(address)) for address in gateway.addresses],
            "devices": len(members),
            "online": sum(self._online(member) for member in members),
            "tcp_flows": sum(len(client.relays) for client in clients),
            "udp_flows": sum(len(client.mappings) for client in clients),
            "rx_bytes": sum(member.rx_bytes for member in members),
            "tx_bytes": sum(member.tx_bytes for member in members),
            "receive_buffer": gateway.outer.buffer_size,
            "send_errors": gateway.outer.send_errors,
            "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
            "drops": dict(gateway.stack.drops),
        }

    def flows(self) -> list[dict[str, Any]]:
        """Every open flow, the newest first."""
        flows = [
            _flow(client, flow, self._gateway.now())
            for client in self._gateway.proxy.clients()
            for flow in client.flows()
        ]
        return sorted(flows, key=lambda flow: float(flow["age"]))

    def refusals(self, device_id: str) -> list[dict[str, Any]]:
        """What a device was refused, the newest first."""
        member = self._gateway.roster.members.get(device_id)
        client = self._gateway.proxy.client(member.peer) if member else None
        if client is None or client.refusals is None:
            return []
        return [
            {
                "address": str(ip_address(refusal.destination)),
                "port": refusal.port,
                "protocol": refusal.protocol,
                "reason": refusal.reason,
                "count": refusal.count,
            }
            for refusal in client.refusals
        ]


def _flow(client: Client, flow: TcpRelay | UdpMapping, now: float) -> dict[str, Any]:
    tcp = isinstance(flow, TcpRelay)
    remote = flow.connection.local if isinstance(flow, TcpRelay) else None
    return {
        "device": client.name,
        "protocol": "tcp" if tcp else "udp",
        "address": str(ip_address(remote[0])) if remote else None,
        "port": remote[1] if remote else None,
        "sent": flow.sent,
        "received": flow.received,
        "age": now - flow.opened,
    }
