"""The timers of section 6: what happens to a peer when its time has come."""

from __future__ import annotations

from lopower.wireguard.constants import KEEPALIVE_TIMEOUT
from lopower.wireguard.core import Core
from lopower.wireguard.events import SessionExpired
from lopower.wireguard.handshakes import Handshakes
from lopower.wireguard.peer import NEVER, Peer
from lopower.wireguard.sessions import Sessions
from lopower.wireguard.transport import Transport


class Timers:
    """Fires what is due and finds out what is next."""

    __slots__ = ("_core", "_handshakes", "_sessions", "_transport")

    def __init__(
        self, core: Core, sessions: Sessions, handshakes: Handshakes, transport: Transport
    ) -> None:
        self._core = core
        self._sessions = sessions
        self._handshakes = handshakes
        self._transport = transport

    def handle(self, now: float) -> None:
        """Fire the timers of all peers that are due."""
        for peer in self._core.wakeups.due(now):
            self._fire_handshake(peer, now)
            self._fire_keepalive(peer, now)
            self._fire_expiry(peer, now)
            self._core.wakeups.arm(peer, self._next(peer))

    def _fire_handshake(self, peer: Peer, now: float) -> None:
        if now >= peer.retransmit_at:
            self._handshakes.retransmit(peer, now)
        if now >= peer.new_handshake_at:
            peer.new_handshake_at = NEVER
            self._handshakes.initiate(peer, now)

    def _fire_keepalive(self, peer: Peer, now: float) -> None:
        if now >= peer.keepalive_at:
            peer.keepalive_at = NEVER
            self._transport.send_keepalive(peer, now)
            if peer.keepalive_again:
                peer.keepalive_again = False
                peer.keepalive_at = now + KEEPALIVE_TIMEOUT
        interval = peer.persistent_keepalive
        if interval and now >= peer.traversed_at + interval:
            self._transport.send_keepalive(peer, now)
            peer.traversed_at = now

    def _fire_expiry(self, peer: Peer, now: float) -> None:
        if peer.previous is not None and now >= peer.previous.expires_at:
            self._sessions.free_previous(peer)
        if now >= peer.expires_at:
            peer.expires_at = NEVER
            self._core.events.append(SessionExpired(peer))
        if now >= peer.zero_at:
            self._sessions.zero(peer)

    @staticmethod
    def _next(peer: Peer) -> float:
        at = min(
            peer.retransmit_at,
            peer.new_handshake_at,
            peer.keepalive_at,
            peer.expires_at,
            peer.zero_at,
        )
        if peer.persistent_keepalive:
            at = min(at, peer.traversed_at + peer.persistent_keepalive)
        if peer.previous is not None:
            at = min(at, peer.previous.expires_at)
        return at
