"""Data, a packet at a time (section 5.4.6): the reference for the bursts of burst.py."""

from __future__ import annotations

from cryptography.exceptions import InvalidTag

from lopower.endpoint import Endpoint
from lopower.wireguard.constants import (
    KEEPALIVE_TIMEOUT,
    MAX_STAGED_PACKETS,
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
)
from lopower.wireguard.cookie import Bytes
from lopower.wireguard.core import Core
from lopower.wireguard.drops import Drop
from lopower.wireguard.handshakes import Handshakes
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.messages import NONCE, TRANSPORT, TRANSPORT_HEADER, TRANSPORT_OVERHEAD
from lopower.wireguard.peer import NEVER, Peer
from lopower.wireguard.sessions import Sessions

_PADDING = [bytes(-size % 16) for size in range(16)]
_unpack_header = TRANSPORT_HEADER.unpack_from
_pack_header = TRANSPORT_HEADER.pack
_pack_nonce = NONCE.pack


class Transport:
    """Opens and seals packets, and keeps the timers that they drive."""

    __slots__ = (
        "_allowed_cache",
        "_arm",
        "_core",
        "_handshakes",
        "_keypairs",
        "_lookup",
        "_mtu",
        "_sessions",
    )

    def __init__(self, core: Core, sessions: Sessions, handshakes: Handshakes, mtu: int) -> None:
        self._core = core
        self._sessions = sessions
        self._handshakes = handshakes
        self._mtu = mtu
        self._keypairs = core.sessions
        self._allowed_cache = core.allowed_ips.cache
        self._lookup = core.allowed_ips.lookup
        self._arm = core.wakeups.arm

    def receive(
        self, datagram: Bytes, source: Endpoint, now: float
    ) -> tuple[Peer, memoryview] | None:
        """Take one datagram of any kind; the peer and its inner packet, if it holds one.

        Whatever does not authenticate is dropped in silence.
        """
        size = len(datagram)
        if size < TRANSPORT_OVERHEAD:
            self._core.drop(Drop.MALFORMED)
            return None
        kind, index, counter = _unpack_header(datagram)
        if kind != TRANSPORT:
            self._receive_handshake(datagram, source, now)
            return None
        keypair = self._keypairs.get(index)
        if keypair is None:
            self._core.drop(Drop.UNKNOWN_INDEX)
            return None
        peer = keypair.peer
        if now >= keypair.expires_at or counter >= REJECT_AFTER_MESSAGES:
            peer.drop(Drop.EXPIRED)
            return None
        cipher = keypair.receive_cipher or keypair.receiver()
        try:
            clear = cipher.decrypt(_pack_nonce(counter), datagram[16:], None)
        except InvalidTag:
            peer.drop(Drop.NOT_AUTHENTIC)
            return None
        window = keypair.window
        if counter == window.next:
            window.next = counter + 1
        elif not window.accept(counter):
            peer.drop(Drop.REPLAY)
            return None
        if source is not peer.endpoint:
            self._core.roam(peer, source)
        self.authenticated(keypair, now)
        if not clear:
            peer.rx_bytes += size
            return None
        self.data_received(peer, now)
        length = self._inner_length(peer, clear)
        if not length:
            return None
        peer.rx_bytes += size
        return peer, memoryview(clear)[:length]

    def authenticated(self, keypair: Keypair, now: float) -> None:
        """Confirm the key pair and keep the timers, after one packet or a burst."""
        peer = keypair.peer
        if keypair is peer.next:
            self._sessions.confirm(keypair, now)
            self._flush_staged(peer, now)
        if now >= keypair.receive_rekey_at and not peer.renewing and keypair is peer.current:
            peer.renewing = True
            self._handshakes.initiate(peer, now)
        peer.new_handshake_at = NEVER
        peer.received_at = peer.traversed_at = now

    def data_received(self, peer: Peer, now: float) -> None:
        """If nothing is sent in the next while, the peer must be told that we are there."""
        if peer.keepalive_at != NEVER:
            peer.keepalive_again = True
            return
        peer.keepalive_again = False
        at = peer.keepalive_at = now + KEEPALIVE_TIMEOUT
        if at < peer.wake_at:
            self._arm(peer, at)

    def send(self, peer: Peer, packet: Bytes, now: float) -> None:
        """Seal one inner packet; without a session it is staged and a handshake begins."""
        keypair = peer.current
        if (
            keypair is None
            or now >= keypair.expires_at
            or keypair.send_counter >= REJECT_AFTER_MESSAGES
        ):
            self._stage(peer, bytes(packet), now)
            return
        self._seal(peer, keypair, packet, now)
        if peer.new_handshake_at == NEVER:
            self.data_sent(peer, now)

    def data_sent(self, peer: Peer, now: float) -> None:
        """If nothing comes in the next while, the session may be broken."""
        if peer.new_handshake_at != NEVER:
            return
        at = peer.new_handshake_at = now + peer.new_handshake_timeout
        if at < peer.wake_at:
            self._arm(peer, at)

    def send_keepalive(self, peer: Peer, now: float) -> None:
        """An empty packet, or a handshake if there is no session."""
        keypair = peer.current
        if (
            keypair is None
            or now >= keypair.expires_at
            or keypair.send_counter >= REJECT_AFTER_MESSAGES
        ):
            self._handshakes.initiate(peer, now)
        else:
            self._seal(peer, keypair, b"", now)

    def _seal(self, peer: Peer, keypair: Keypair, packet: Bytes, now: float) -> None:
        endpoint = peer.endpoint
        if endpoint is None:
            peer.drop(Drop.NO_ENDPOINT)
            return
        size = len(packet)
        if size & 15:
            padding = _PADDING[size & 15]
            packet = b"".join((packet, padding[: max(0, self._mtu - size)]))
        counter = keypair.send_counter
        keypair.send_counter = counter + 1
        cipher = keypair.send_cipher or keypair.sender()
        datagram = _pack_header(TRANSPORT, keypair.remote_index, counter) + cipher.encrypt(
            _pack_nonce(counter), packet, None
        )
        self._core.outgoing.append((endpoint, datagram))
        peer.tx_bytes += len(datagram)
        peer.keepalive_at = NEVER
        peer.traversed_at = now
        if now >= keypair.rekey_at or counter >= REKEY_AFTER_MESSAGES:
            self._handshakes.initiate(peer, now)

    def _stage(self, peer: Peer, packet: bytes, now: float) -> None:
        if peer.endpoint is None:
            peer.drop(Drop.NO_ENDPOINT)
            return
        staged = peer.staged
        if len(staged) >= MAX_STAGED_PACKETS:
            del staged[0]
            peer.drop(Drop.STAGED_OVERFLOW)
        staged.append(packet)
        self._handshakes.initiate(peer, now)

    def _flush_staged(self, peer: Peer, now: float) -> None:
        staged = peer.staged
        if staged:
            peer.staged = []
            for packet in staged:
                self.send(peer, packet, now)

    def _receive_handshake(self, datagram: Bytes, source: Endpoint, now: float) -> None:
        peer = self._handshakes.receive(datagram, source, now)
        if peer is None:
            return
        # The responder may not send before it has received something: data or a keepalive.
        if peer.staged:
            self._flush_staged(peer, now)
        else:
            self.send_keepalive(peer, now)

    def _inner_length(self, peer: Peer, clear: bytes) -> int:
        """The length of the inner packet without padding; 0 (counted) if it must not pass."""
        version = clear[0] >> 4
        available = len(clear)
        if version == 4 and available >= 20:
            length, minimum = clear[2] << 8 | clear[3], 20
            inner_source = clear[12:16]
        elif version == 6 and available >= 40:
            length, minimum = 40 + (clear[4] << 8 | clear[5]), 40
            inner_source = clear[8:24]
        else:
            peer.drop(Drop.INNER_MALFORMED)
            return 0
        if not minimum <= length <= available:
            peer.drop(Drop.INNER_MALFORMED)
            return 0
        if (
            self._allowed_cache.get(inner_source) is not peer
            and self._lookup(inner_source) is not peer
        ):
            peer.drop(Drop.SOURCE_NOT_ALLOWED)
            return 0
        return length
