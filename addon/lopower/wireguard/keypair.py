"""One session's keys: two ciphers, two counters, two indices (section 5.4.6)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

from lopower.wireguard.constants import (
    RECEIVE_REKEY_AFTER_TIME,
    REJECT_AFTER_TIME,
    REKEY_AFTER_TIME,
)
from lopower.wireguard.replay import ReplayWindow

if TYPE_CHECKING:
    from lopower.wireguard.peer import Peer

NEVER = float("inf")


class Keypair:
    """Ciphers take 2.5 KB each, so they are made when first used: most devices only receive."""

    __slots__ = (
        "_receive_key",
        "_send_key",
        "clock_offset",
        "created_at",
        "expires_at",
        "initiator",
        "local_index",
        "peer",
        "receive_cipher",
        "receive_rekey_at",
        "rekey_at",
        "remote_index",
        "send_cipher",
        "send_counter",
        "tolerated_timestamp",
        "window",
    )

    def __init__(
        self,
        peer: Peer,
        *,
        initiator: bool,
        keys: tuple[bytes, bytes],
        indices: tuple[int, int],
        now: float,
    ) -> None:
        self.peer = peer
        self.initiator = initiator
        self._send_key, self._receive_key = keys
        self.local_index, self.remote_index = indices
        self.created_at = now
        self.expires_at = now + REJECT_AFTER_TIME
        # Only the initiator renews: otherwise both would, at the same time.
        self.rekey_at = now + REKEY_AFTER_TIME if initiator else NEVER
        self.receive_rekey_at = now + RECEIVE_REKEY_AFTER_TIME if initiator else NEVER
        self.send_counter = 0
        self.window = ReplayWindow()
        self.send_cipher: ChaCha20Poly1305 | None = None
        self.receive_cipher: ChaCha20Poly1305 | None = None
        # As responder: the peer's clock less ours, and its timestamp if that was too old.
        self.clock_offset: float | None = None
        self.tolerated_timestamp: bytes | None = None

    def sender(self) -> ChaCha20Poly1305:
        """The cipher to send with."""
        cipher = self.send_cipher
        if cipher is None:
            cipher = self.send_cipher = ChaCha20Poly1305(self._send_key)
        return cipher

    def receiver(self) -> ChaCha20Poly1305:
        """The cipher to receive with."""
        cipher = self.receive_cipher
        if cipher is None:
            cipher = self.receive_cipher = ChaCha20Poly1305(self._receive_key)
        return cipher

    def release_ciphers(self) -> None:
        """Give their memory back; the next packet makes them anew."""
        self.send_cipher = self.receive_cipher = None
