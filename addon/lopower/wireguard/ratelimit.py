"""How many handshakes one source may cost, and when all of them together are too many."""

from __future__ import annotations

from collections.abc import Hashable

from lopower.wireguard.constants import (
    LOAD_DRAIN_PER_SECOND,
    LOAD_STICKY_TIME,
    LOAD_THRESHOLD,
)

# A source counts only after a valid mac2, so every entry is a real address that answers.
MAX_SOURCES = 4096
# Differences of monotonic times in floats are off by this much at most.
_ROUNDING = 1e-6


class RateLimiter:
    """A token bucket per source, kept as the one time at which the bucket is full again."""

    __slots__ = ("_capacity", "_full_at", "_interval", "_swept_at", "_tolerance")

    def __init__(self, per_second: float, burst: int, capacity: int = MAX_SOURCES) -> None:
        self._interval = 1 / per_second
        self._tolerance = (burst - 1) * self._interval + _ROUNDING
        self._capacity = capacity
        self._full_at: dict[Hashable, float] = {}
        self._swept_at = float("-inf")

    def allow(self, source: Hashable, now: float) -> bool:
        """Take a token of this source, if it has one; unknown sources have none when full."""
        full_at = self._full_at.get(source)
        if full_at is None:
            if len(self._full_at) >= self._capacity and not self._sweep(now):
                return False
            full_at = now
        wait = full_at - now
        if wait > self._tolerance:
            return False
        self._full_at[source] = now + self._interval if wait < 0 else full_at + self._interval
        return True

    def __len__(self) -> int:
        return len(self._full_at)

    def _sweep(self, now: float) -> bool:
        """Forget the sources whose bucket is full, at most once a second; True if one was."""
        if now - self._swept_at < 1:
            return False
        self._swept_at = now
        self._full_at = {source: at for source, at in self._full_at.items() if at > now}
        return len(self._full_at) < self._capacity


class LoadMeter:
    """Under load: more handshakes than can be worked off, and for a second after that."""

    __slots__ = ("_level", "_measured_at", "_until")

    def __init__(self) -> None:
        self._level = 0.0
        self._measured_at = 0.0
        self._until = float("-inf")

    def count(self, now: float) -> bool:
        """Count one handshake message; True while under load."""
        drained = (now - self._measured_at) * LOAD_DRAIN_PER_SECOND
        self._level = max(0.0, self._level - drained) + 1
        self._measured_at = now
        if self._level > LOAD_THRESHOLD:
            self._until = now + LOAD_STICKY_TIME
        # The queue it stands for is bounded too: a flood is forgotten as fast as it was noticed.
        self._level = min(self._level, LOAD_THRESHOLD + 1.0)
        return now < self._until
