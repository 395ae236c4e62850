"""All that is known about one peer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lopower.wireguard.constants import NEW_HANDSHAKE_TIMEOUT
from lopower.wireguard.cookie import CookieJar
from lopower.wireguard.noise import NO_PRESHARED_KEY
from lopower.wireguard.tai64n import TimestampGuard

if TYPE_CHECKING:
    from lopower.endpoint import Endpoint
    from lopower.wireguard.keypair import Keypair
    from lopower.wireguard.noise import Handshake

NEVER = float("inf")
LONG_AGO = float("-inf")


class Peer:
    """A remote interface, known by its public key. Times are monotonic, in seconds."""

    __slots__ = (
        "attempting_since",
        "clock_reported_at",
        "cookies",
        "current",
        "drops",
        "endpoint",
        "expires_at",
        "handshake",
        "handshake_index",
        "handshake_sent_at",
        "initiation_received_at",
        "keepalive_again",
        "keepalive_at",
        "last_handshake",
        "new_handshake_at",
        "new_handshake_timeout",
        "next",
        "persistent_keepalive",
        "preshared_key",
        "previous",
        "public_key",
        "received_at",
        "removed",
        "renewing",
        "retransmit_at",
        "rx_bytes",
        "staged",
        "static_static",
        "timestamps",
        "traversed_at",
        "tx_bytes",
        "wake_at",
        "zero_at",
    )

    def __init__(self, public_key: bytes, static_static: bytes) -> None:
        self.public_key = public_key
        self.static_static = static_static
        self.preshared_key = NO_PRESHARED_KEY
        self.endpoint: Endpoint | None = None
        self.persistent_keepalive = 0.0
        self.timestamps = TimestampGuard()
        self.cookies = CookieJar()
        self.removed = False

        self.previous: Keypair | None = None
        self.current: Keypair | None = None
        self.next: Keypair | None = None  # as responder, until the peer has used it
        self.staged: list[bytes] = []

        # Our own initiation, waiting for its response.
        self.handshake: Handshake | None = None
        self.handshake_index = 0
        self.handshake_sent_at = LONG_AGO  # initiation or response
        self.attempting_since = LONG_AGO
        self.initiation_received_at = LONG_AGO
        self.clock_reported_at = LONG_AGO
        self.renewing = False  # the initiation of RECEIVE_REKEY_AFTER_TIME has been sent

        # Timers; NEVER while they do not run.
        self.wake_at = NEVER
        self.retransmit_at = NEVER
        self.keepalive_at = NEVER
        self.keepalive_again = False
        self.new_handshake_at = NEVER
        self.new_handshake_timeout = NEW_HANDSHAKE_TIMEOUT
        self.expires_at = NEVER
        self.zero_at = NEVER
        self.traversed_at = LONG_AGO  # the last authenticated packet, either way
        self.received_at = LONG_AGO

        self.last_handshake: float | None = None
        self.rx_bytes = 0
        self.tx_bytes = 0
        self.drops: dict[str, int] = {}

    @property
    def last_timestamp(self) -> bytes | None:
        """The TAI64N mark that later initiations must exceed; worth keeping across restarts."""
        return self.timestamps.mark

    @last_timestamp.setter
    def last_timestamp(self, mark: bytes | None) -> None:
        self.timestamps = TimestampGuard(mark)

    def drop(self, reason: str) -> None:
        """Count a packet that was dropped."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def __repr__(self) -> str:
        return f"<Peer {self.public_key[:4].hex()}… at {self.endpoint}>"
