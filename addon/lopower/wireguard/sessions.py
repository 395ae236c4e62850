"""Rotation of key pairs (section 6.3): previous, current and next."""

from __future__ import annotations

from lopower.wireguard.constants import KEY_ZEROING_TIME, NEW_HANDSHAKE_TIMEOUT
from lopower.wireguard.core import Core
from lopower.wireguard.events import HandshakeCompleted
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.peer import NEVER, Peer


class Sessions:
    """Puts key pairs in their places and takes them out of the index table."""

    __slots__ = ("_core",)

    def __init__(self, core: Core) -> None:
        self._core = core

    def begin_as_initiator(self, keypair: Keypair, now: float) -> None:
        """The response has come: the new key pair is current at once."""
        peer = keypair.peer
        displaced = peer.current
        if peer.next is not None:
            self._free(displaced)
            displaced, peer.next = peer.next, None
        self._become_current(keypair, displaced)
        self._derived(keypair, now)
        self._complete(keypair, now)

    def begin_as_responder(self, keypair: Keypair, now: float) -> None:
        """The response is sent: the new key pair waits until the initiator uses it."""
        peer = keypair.peer
        self._free(peer.next)
        self._free(peer.previous)
        peer.previous, peer.next = None, keypair
        self._derived(keypair, now)

    def confirm(self, keypair: Keypair, now: float) -> None:
        """The initiator has used the next key pair."""
        peer = keypair.peer
        peer.next = None
        self._become_current(keypair, peer.current)
        if keypair.tolerated_timestamp is not None:
            peer.timestamps.reset(keypair.tolerated_timestamp, self._core.wall())
        self._complete(keypair, now)

    def free_previous(self, peer: Peer) -> None:
        """The previous key pair is too old for anything."""
        self._free(peer.previous)
        peer.previous = None

    def zero(self, peer: Peer) -> None:
        """Forget all keys of a peer."""
        for keypair in (peer.previous, peer.current, peer.next):
            self._free(keypair)
        peer.previous = peer.current = peer.next = None
        peer.expires_at = peer.zero_at = NEVER
        self.abandon_handshake(peer)

    def abandon_handshake(self, peer: Peer) -> None:
        """Forget our initiation: no response to it counts any more."""
        if peer.handshake is not None:
            del self._core.pending[peer.handshake_index]
            peer.handshake = None
        peer.retransmit_at = NEVER

    def _become_current(self, keypair: Keypair, displaced: Keypair | None) -> None:
        peer = keypair.peer
        self._free(peer.previous)
        if displaced is not None:
            displaced.release_ciphers()
        peer.previous, peer.current = displaced, keypair
        peer.expires_at = keypair.expires_at

    def _derived(self, keypair: Keypair, now: float) -> None:
        self._core.sessions[keypair.local_index] = keypair
        peer = keypair.peer
        peer.zero_at = now + KEY_ZEROING_TIME
        self._core.wakeups.arm(peer, keypair.expires_at)

    def _complete(self, keypair: Keypair, now: float) -> None:
        peer = keypair.peer
        self.abandon_handshake(peer)
        peer.last_handshake = now
        peer.renewing = False
        peer.new_handshake_timeout = NEW_HANDSHAKE_TIMEOUT + self._core.jitter()
        self._core.events.append(HandshakeCompleted(peer, keypair.initiator, keypair.clock_offset))

    def _free(self, keypair: Keypair | None) -> None:
        if keypair is not None:
            del self._core.sessions[keypair.local_index]
