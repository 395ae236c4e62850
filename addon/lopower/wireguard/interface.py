"""One WireGuard interface, both roles, sans-IO."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

from lopower.endpoint import Endpoint
from lopower.wireguard.allowedips import Prefix, parse_prefix
from lopower.wireguard.burst import Bursts
from lopower.wireguard.core import Core
from lopower.wireguard.events import Event
from lopower.wireguard.handshakes import Handshakes
from lopower.wireguard.noise import (
    NO_PRESHARED_KEY,
    HandshakeError,
    StaticKey,
    shared_secret,
)
from lopower.wireguard.peer import LONG_AGO, Peer
from lopower.wireguard.sessions import Sessions
from lopower.wireguard.timers import Timers
from lopower.wireguard.transport import Transport

KEY_SIZE = 32
# Padding never makes an inner packet longer than this.
DEFAULT_MTU = 1280


class Interface:
    """Peers, their sessions, and the way in and out for packets.

    `receive`, `send`, `receive_burst` and `send_burst` are bound once: see Transport and Bursts.
    """

    __slots__ = (
        "_core",
        "_handshakes",
        "_sessions",
        "_timers",
        "initiate",
        "peer_for",
        "receive",
        "receive_burst",
        "send",
        "send_burst",
    )

    def __init__(
        self,
        private_key: bytes,
        *,
        wall: Callable[[], float],
        random: Callable[[int], bytes] = os.urandom,
        mtu: int = DEFAULT_MTU,
    ) -> None:
        core = self._core = Core(private_key, wall, random)
        self._sessions = Sessions(core)
        self._handshakes = Handshakes(core, self._sessions)
        transport = Transport(core, self._sessions, self._handshakes, mtu)
        bursts = Bursts(core, transport, self._handshakes)
        self._timers = Timers(core, self._sessions, self._handshakes, transport)
        self.receive = transport.receive
        self.receive_burst = bursts.receive
        self.send = transport.send
        self.send_burst = bursts.send
        self.initiate = self._handshakes.initiate
        self.peer_for = core.allowed_ips.lookup

    @property
    def public_key(self) -> bytes:
        """Our own public key."""
        return self._core.static.public

    @property
    def peers(self) -> list[Peer]:
        """All peers, in the order they were added."""
        return list(self._core.peers.values())

    @property
    def drops(self) -> dict[str, int]:
        """Datagrams dropped by reason, as far as they belong to no peer."""
        return self._core.drops

    @property
    def rx_bytes(self) -> int:
        """What all peers together have sent us."""
        return sum(peer.rx_bytes for peer in self._core.peers.values())

    @property
    def tx_bytes(self) -> int:
        """What we have sent to all peers together."""
        return sum(peer.tx_bytes for peer in self._core.peers.values())

    def peer(self, public_key: bytes) -> Peer | None:
        """The peer with this public key."""
        return self._core.peers.get(public_key)

    def add_peer(
        self,
        public_key: bytes,
        *,
        preshared_key: bytes | None = None,
        allowed_ips: Iterable[Prefix] = (),
        endpoint: Endpoint | None = None,
        persistent_keepalive: float = 0.0,
        last_timestamp: bytes | None = None,
    ) -> Peer:
        """Add a peer; a prefix that another peer has moves to this one.

        Raises ValueError for a key that cannot be used or that is there already.
        """
        peer = Peer(public_key, self._static_static(public_key))
        if public_key in self._core.peers:
            raise ValueError("a peer with this public key exists already")
        self.set_preshared_key(peer, preshared_key)
        prefixes = list(allowed_ips)
        for prefix in prefixes:
            parse_prefix(prefix)
        peer.endpoint = endpoint
        peer.last_timestamp = last_timestamp
        self._core.peers[public_key] = peer
        self.set_allowed_ips(peer, prefixes)
        self.set_persistent_keepalive(peer, persistent_keepalive)
        return peer

    def remove_peer(self, peer: Peer) -> None:
        """Forget a peer, its keys and its prefixes."""
        if peer.removed:
            return
        core = self._core
        self._sessions.zero(peer)
        core.allowed_ips.remove_owner(peer)
        core.wakeups.disarm(peer)
        peer.removed = True
        peer.endpoint = None  # whoever still holds this peer sends to nobody
        del core.peers[peer.public_key]

    def set_private_key(self, private_key: bytes) -> None:
        """Take another identity; all sessions end."""
        core = self._core
        static = StaticKey(private_key)
        if static.public in core.peers:
            raise ValueError("this is the key of a peer")
        core.static = static
        self._handshakes.use_static_key()
        for peer in core.peers.values():
            self._sessions.zero(peer)
            peer.handshake_sent_at = LONG_AGO
            peer.static_static = self._static_static(peer.public_key)

    def set_preshared_key(self, peer: Peer, preshared_key: bytes | None) -> None:
        """Set or remove (None) the preshared key; it acts at the next handshake."""
        if preshared_key is not None and len(preshared_key) != KEY_SIZE:
            raise ValueError("a preshared key has 32 bytes")
        peer.preshared_key = preshared_key or NO_PRESHARED_KEY

    def set_allowed_ips(self, peer: Peer, allowed_ips: Iterable[Prefix]) -> None:
        """Replace the prefixes of a peer."""
        prefixes = list(allowed_ips)
        for prefix in prefixes:
            parse_prefix(prefix)
        table = self._core.allowed_ips
        table.remove_owner(peer)
        for prefix in prefixes:
            table.insert(prefix, peer)

    def allowed_ips(self, peer: Peer) -> list[str]:
        """The prefixes of a peer as text."""
        return [str(network) for network in self._core.allowed_ips.prefixes(peer)]

    def set_endpoint(self, peer: Peer, endpoint: Endpoint | None) -> None:
        """Where to send to until the peer is heard from elsewhere."""
        peer.endpoint = endpoint

    def set_persistent_keepalive(self, peer: Peer, seconds: float) -> None:
        """Send something at least this often, beginning at once; 0 turns it off."""
        peer.persistent_keepalive = seconds
        if seconds:
            self._core.wakeups.arm(peer, max(0.0, peer.traversed_at + seconds))

    def forget_timestamp(self, peer: Peer) -> None:
        """Take whatever timestamp the peer's next initiation has."""
        peer.timestamps.forget()

    def datagrams_to_send(self) -> list[tuple[Endpoint, bytes]]:
        """What has piled up since the last call, in order."""
        core = self._core
        datagrams = core.outgoing
        core.outgoing = []
        return datagrams

    def next_event(self) -> Event | None:
        """The oldest event that has not been fetched."""
        events = self._core.events
        return events.popleft() if events else None

    def deadline(self) -> float | None:
        """When to call `handle_timer`; there may turn out to be nothing to do."""
        return self._core.wakeups.deadline()

    def handle_timer(self, now: float) -> None:
        """Fire the timers that are due."""
        self._timers.handle(now)

    def _static_static(self, public_key: bytes) -> bytes:
        if len(public_key) != KEY_SIZE:
            raise ValueError("a public key has 32 bytes")
        if public_key == self._core.static.public:
            raise ValueError("this is our own public key")
        try:
            return shared_secret(self._core.static.private, public_key)
        except HandshakeError as error:
            raise ValueError(str(error)) from error
