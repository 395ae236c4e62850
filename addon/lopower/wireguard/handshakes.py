"""Messages 1 to 3: initiations, responses and cookie replies, of both roles (section 5)."""

from __future__ import annotations

from struct import Struct

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from lopower.endpoint import Endpoint
from lopower.wireguard import tai64n
from lopower.wireguard.constants import (
    HANDSHAKES_BURST,
    HANDSHAKES_PER_SECOND,
    INITIATION_INTERVAL,
    REKEY_ATTEMPT_TIME,
    REKEY_TIMEOUT,
)
from lopower.wireguard.cookie import Bytes, CookieChecker
from lopower.wireguard.core import Core
from lopower.wireguard.drops import Drop
from lopower.wireguard.events import ClockWrong, HandshakeGaveUp, UnknownPeer, WrongServerKey
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.messages import (
    COOKIE_REPLY,
    COOKIE_REPLY_BODY,
    INITIATION,
    INITIATION_BODY,
    RESPONSE,
    RESPONSE_BODY,
    SIZES,
)
from lopower.wireguard.noise import Handshake, HandshakeError, Start, shared_secret
from lopower.wireguard.peer import NEVER, Peer
from lopower.wireguard.ratelimit import LoadMeter, RateLimiter
from lopower.wireguard.sessions import Sessions
from lopower.wireguard.tai64n import Verdict

_INITIATION_HEAD = Struct("<II")
_RESPONSE_HEAD = Struct("<III")

# A device is heard from in this time if its session is in use (keepalive 25 s, one may be lost).
LIVE_TIME = 60.0
# A clock less wrong than this is not worth an event.
CLOCK_TOLERANCE = 5.0
CLOCK_REPORT_INTERVAL = 60.0
# Sources of initiations for another key, of which there may be as many as there are liars.
MAX_WRONG_KEY_SOURCES = 256
WRONG_KEY_REPORT_COUNT = 3


class Handshakes:
    """Turns handshake messages into key pairs and answers."""

    __slots__ = (
        "_checker",
        "_core",
        "_limiter",
        "_load",
        "_reports",
        "_sessions",
        "_start",
        "_wrong_key",
    )

    def __init__(self, core: Core, sessions: Sessions) -> None:
        self._core = core
        self._sessions = sessions
        self._load = LoadMeter()
        self._limiter = RateLimiter(HANDSHAKES_PER_SECOND, HANDSHAKES_BURST)
        self._reports = RateLimiter(1, 5)
        self._wrong_key: dict[str, int] = {}
        self.use_static_key()

    def use_static_key(self) -> None:
        """Compute anew what depends on our own key."""
        self._start = Start(self._core.static.public)
        self._checker = CookieChecker(self._core.static.public, self._core.random)

    def receive(self, datagram: Bytes, source: Endpoint, now: float) -> Peer | None:
        """Take any datagram that is not of type 4; a peer if we now have a session as initiator."""
        kind = int.from_bytes(datagram[:4], "little")
        if SIZES.get(kind) != len(datagram):
            self._core.drop(Drop.MALFORMED)
            return None
        if kind == COOKIE_REPLY:
            self._receive_cookie_reply(bytes(datagram), now)
            return None
        if not self._checker.check_mac1(datagram):
            self._count_wrong_mac1(kind, source, now)
            return None
        message = bytes(datagram)
        if self._load.count(now) and not self._admit(message, source, now):
            return None
        if kind == RESPONSE:
            return self._receive_response(message, source, now)
        self._receive_initiation(message, source, now)
        return None

    def initiate(self, peer: Peer, now: float) -> None:
        """Send an initiation, unless a handshake message went out within REKEY_TIMEOUT."""
        if peer.endpoint is None:
            return
        peer.attempting_since = now
        if now - peer.handshake_sent_at < REKEY_TIMEOUT:
            if peer.retransmit_at == NEVER:
                self._retry_at(peer, peer.handshake_sent_at + self._core.retry_timeout())
            return
        self._send_initiation(peer, peer.endpoint, now)

    def retransmit(self, peer: Peer, now: float) -> None:
        """The timer of an unanswered initiation has run out."""
        peer.retransmit_at = NEVER
        if now < peer.attempting_since + REKEY_ATTEMPT_TIME:
            if peer.endpoint is not None:
                self._send_initiation(peer, peer.endpoint, now)
            return
        self._sessions.abandon_handshake(peer)
        peer.keepalive_at = NEVER
        for _ in peer.staged:
            peer.drop(Drop.GAVE_UP)
        peer.staged.clear()
        self._core.events.append(HandshakeGaveUp(peer))

    def _send_initiation(self, peer: Peer, endpoint: Endpoint, now: float) -> None:
        core = self._core
        self._sessions.abandon_handshake(peer)
        handshake = Handshake(Start(peer.public_key))
        index = core.new_index()
        body = _INITIATION_HEAD.pack(INITIATION, index) + handshake.write_initiation(
            core.static,
            peer.public_key,
            peer.static_static,
            X25519PrivateKey.from_private_bytes(core.random(32)),
            core.timestamp(),
        )
        message = peer.cookies.add_macs(body, peer.public_key, now)
        peer.handshake, peer.handshake_index = handshake, index
        core.pending[index] = peer
        core.outgoing.append((endpoint, message))
        core.sent(peer, len(message), now)
        peer.handshake_sent_at = now
        give_up_at = peer.attempting_since + REKEY_ATTEMPT_TIME
        self._retry_at(peer, min(now + core.retry_timeout(), give_up_at))

    def _retry_at(self, peer: Peer, at: float) -> None:
        peer.retransmit_at = at
        self._core.wakeups.arm(peer, at)

    def _admit(self, message: bytes, source: Endpoint, now: float) -> bool:
        """Under load: only who has our cookie, and of those each no more than its share."""
        packed = source.packed()
        if not self._checker.check_mac2(message, packed, now):
            self._core.drop(Drop.COOKIE_REQUIRED)
            self._core.outgoing.append((source, self._checker.reply(message, packed, now)))
            return False
        if not self._limiter.allow(source.source_prefix(), now):
            self._core.drop(Drop.RATE_LIMITED)
            return False
        return True

    def _receive_initiation(self, message: bytes, source: Endpoint, now: float) -> None:
        core = self._core
        _, sender, ephemeral, sealed_static, sealed = INITIATION_BODY.unpack_from(message)
        handshake = Handshake(self._start)
        try:
            public_key = handshake.read_static(core.static, ephemeral, sealed_static)
            peer = core.peers.get(public_key)
            if peer is None:
                self._report_unknown(handshake, public_key, sealed, source, now)
                return
            timestamp = handshake.read_payload(peer.static_static, sealed)
        except HandshakeError:
            core.drop(Drop.NOT_AUTHENTIC)
            return
        if now - peer.initiation_received_at < INITIATION_INTERVAL:
            peer.drop(Drop.FLOOD)
            return
        verdict, offset = self._judge(peer, timestamp, now)
        if verdict is Verdict.OLD:
            peer.drop(Drop.OLD_TIMESTAMP)
            return
        peer.initiation_received_at = now
        if verdict is Verdict.FRESH:
            self._authenticated(peer, len(message), source, now)
        keypair = self._respond(peer, handshake, sender, source, now)
        keypair.clock_offset = offset
        if verdict is Verdict.TOLERATED:
            keypair.tolerated_timestamp = timestamp

    def _judge(self, peer: Peer, timestamp: bytes, now: float) -> tuple[Verdict, float]:
        """What the timestamp is worth, and how far the peer's clock is ahead."""
        wall = self._core.wall()
        current = peer.current
        live = (
            current is not None and now < current.expires_at and now - peer.received_at < LIVE_TIME
        )
        verdict = peer.timestamps.judge(timestamp, now, wall, live)
        offset = tai64n.decode(timestamp) - wall
        limit = tai64n.MAX_AHEAD if verdict is Verdict.FRESH else CLOCK_TOLERANCE
        if abs(offset) > limit and now - peer.clock_reported_at >= CLOCK_REPORT_INTERVAL:
            peer.clock_reported_at = now
            self._core.events.append(ClockWrong(peer, offset, verdict is not Verdict.OLD))
        return verdict, offset

    def _respond(
        self, peer: Peer, handshake: Handshake, sender: int, source: Endpoint, now: float
    ) -> Keypair:
        core = self._core
        ephemeral = X25519PrivateKey.from_private_bytes(core.random(32))
        sealed = handshake.write_response(ephemeral, peer.preshared_key)
        index = core.new_index()
        body = _RESPONSE_HEAD.pack(RESPONSE, index, sender) + sealed
        message = peer.cookies.add_macs(body, peer.public_key, now)
        receive_key, send_key = handshake.split()
        keypair = Keypair(
            peer,
            initiator=False,
            keys=(send_key, receive_key),
            indices=(index, sender),
            now=now,
        )
        self._sessions.begin_as_responder(keypair, now)
        core.outgoing.append((source, message))
        core.sent(peer, len(message), now)
        peer.handshake_sent_at = now
        return keypair

    def _receive_response(self, message: bytes, source: Endpoint, now: float) -> Peer | None:
        core = self._core
        _, sender, receiver, ephemeral, sealed = RESPONSE_BODY.unpack_from(message)
        peer = core.pending.get(receiver)
        if peer is None or peer.handshake is None:
            core.drop(Drop.UNKNOWN_INDEX)
            return None
        handshake = peer.handshake
        try:
            handshake.read_response(core.static, peer.preshared_key, ephemeral, sealed)
        except HandshakeError:
            peer.drop(Drop.NOT_AUTHENTIC)
            return None
        keypair = Keypair(
            peer, initiator=True, keys=handshake.split(), indices=(receiver, sender), now=now
        )
        self._sessions.begin_as_initiator(keypair, now)
        self._authenticated(peer, len(message), source, now)
        return peer

    def _receive_cookie_reply(self, message: bytes, now: float) -> None:
        """Keep the cookie and wait for the timer; it proves nothing about where it came from."""
        _, receiver, nonce, sealed = COOKIE_REPLY_BODY.unpack(message)
        peer = self._core.pending.get(receiver)
        if peer is None and receiver in self._core.sessions:
            peer = self._core.sessions[receiver].peer
        if peer is None:
            self._core.drop(Drop.UNKNOWN_INDEX)
        elif peer.cookies.receive(nonce, sealed, peer.public_key, now):
            peer.rx_bytes += len(message)
        else:
            peer.drop(Drop.NOT_AUTHENTIC)

    def _authenticated(self, peer: Peer, size: int, source: Endpoint, now: float) -> None:
        self._core.roam(peer, source)
        peer.rx_bytes += size
        peer.new_handshake_at = NEVER
        peer.traversed_at = now

    def _report_unknown(
        self, handshake: Handshake, public_key: bytes, sealed: bytes, source: Endpoint, now: float
    ) -> None:
        """Tell of a stranger, once it has proved to own the key; it gets no answer."""
        self._core.drop(Drop.UNKNOWN_PEER)
        if not self._reports.allow("unknown peer", now):
            return
        handshake.read_payload(shared_secret(self._core.static.private, public_key), sealed)
        self._core.events.append(UnknownPeer(public_key, source))

    def _count_wrong_mac1(self, kind: int, source: Endpoint, now: float) -> None:
        self._core.drop(Drop.MAC1)
        if kind != INITIATION:
            return
        counts = self._wrong_key
        count = counts.get(source.host, 0) + 1
        if count == 1 and len(counts) >= MAX_WRONG_KEY_SOURCES:
            del counts[next(iter(counts))]
        counts[source.host] = count
        # The third, the sixth, the twelfth ...: a device retries for ever.
        times, remainder = divmod(count, WRONG_KEY_REPORT_COUNT)
        is_due = not remainder and not times & (times - 1)
        if is_due and self._reports.allow("wrong key", now):
            self._core.events.append(WrongServerKey(source, count))
