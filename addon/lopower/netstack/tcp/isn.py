"""Initial sequence numbers nobody can guess (RFC 6528)."""

from __future__ import annotations

from hashlib import blake2s

from lopower.netstack.tcp.sequence import MASK

TICKS_PER_SECOND = 250_000  # RFC 9293, 3.4.1: one every 4 microseconds


class SequenceGenerator:
    """ISN = M + F(flow, secret): a clock, offset by a keyed hash of the flow."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def initial(self, key: bytes, now: float) -> int:
        """The ISN for the flow `key` at `now`."""
        offset = int.from_bytes(blake2s(key, key=self._secret, digest_size=4).digest())
        return (offset + int(now * TICKS_PER_SECOND)) & MASK
