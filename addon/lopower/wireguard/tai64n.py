"""Timestamps of initiations (section 5.1), and a rule for devices whose clock is wrong.

A strict responder locks out a device that was ahead once, until real time catches up, and one that
is behind, until it has learned the time. The rule here is tolerant, and gives a replayed initiation
no more than a response that nobody can use:

* what is remembered is at most MAX_AHEAD after our own clock;
* a device without a live session whose authentic initiations have been too old again and again,
  each newer than the one before, is answered; once it uses that session its mark is set anew.
"""

from __future__ import annotations

from enum import Enum, auto

_EPOCH = 2**62 + 10  # TAI is ten seconds ahead of UTC at the start of 1970, leap seconds aside
_WHITENING = 2**24
SIZE = 12

MAX_AHEAD = 120.0
OLD_COUNT = 3
OLD_SPAN = 15.0
# Without a newer one for this long, what has been counted is forgotten: the device restarted.
OLD_FORGET = 60.0
# A device retries every five seconds.
TOLERATE_INTERVAL = 4.0


def encode(seconds: float) -> bytes:
    """TAI64N of a unix time, whitened so that it does not tell more than it must."""
    nanoseconds = max(0, int(seconds * 1_000_000_000))
    whole, fraction = divmod(nanoseconds, 1_000_000_000)
    return (_EPOCH + whole).to_bytes(8) + (fraction & -_WHITENING).to_bytes(4)


def decode(timestamp: bytes) -> float:
    """The unix time of a timestamp; whatever the bytes, a float."""
    return float(int.from_bytes(timestamp[:8]) - _EPOCH) + int.from_bytes(timestamp[8:12]) / 1e9


def successor(timestamp: bytes) -> bytes:
    """The least whitened timestamp after this one."""
    seconds, nanoseconds = int.from_bytes(timestamp[:8]), int.from_bytes(timestamp[8:12])
    nanoseconds = (nanoseconds & -_WHITENING) + _WHITENING
    if nanoseconds >= 1_000_000_000:
        seconds, nanoseconds = seconds + 1, 0
    return seconds.to_bytes(8) + nanoseconds.to_bytes(4)


class Verdict(Enum):
    """What an authentic timestamp is worth."""

    FRESH = auto()
    OLD = auto()
    TOLERATED = auto()


class TimestampGuard:
    """The timestamps of one peer."""

    __slots__ = (
        "_newest",
        "_old_count",
        "_old_first_at",
        "_old_last_at",
        "_old_newest",
        "_tolerated_at",
        "mark",
    )

    def __init__(self, mark: bytes | None = None) -> None:
        self.mark = mark  # what is worth keeping across restarts
        self._newest = mark or b""  # as sent, not limited to MAX_AHEAD
        self._tolerated_at = float("-inf")
        self._old_count = 0
        self._old_newest = b""
        self._old_first_at = float("-inf")
        self._old_last_at = float("-inf")

    def judge(self, timestamp: bytes, now: float, wall: float, live: bool) -> Verdict:
        """Judge a timestamp; if it is fresh, older ones no longer are."""
        if self._is_fresh(timestamp, wall):
            self._remember(timestamp, wall)
            return Verdict.FRESH
        counted = self._count_old(timestamp, now)
        if live or not counted or not self._is_tolerable(now):
            return Verdict.OLD
        self._tolerated_at = now
        return Verdict.TOLERATED

    def reset(self, timestamp: bytes, wall: float) -> None:
        """The sender of a tolerated timestamp has proved to be there: count from it."""
        self.mark = None
        self._remember(timestamp, wall)

    def forget(self) -> None:
        """Take any timestamp next."""
        self.mark = None
        self._newest = b""
        self._forget_old()

    def _is_fresh(self, timestamp: bytes, wall: float) -> bool:
        if timestamp > self._newest:
            return True
        # A clock that was ahead and has been set right: not newer, but plausible.
        return self.mark is not None and self.mark < timestamp <= encode(wall + MAX_AHEAD)

    def _remember(self, timestamp: bytes, wall: float) -> None:
        limited = min(timestamp, encode(wall + MAX_AHEAD))
        self.mark = limited if self.mark is None else max(self.mark, limited)
        self._newest = timestamp
        self._forget_old()

    def _count_old(self, timestamp: bytes, now: float) -> bool:
        """Count one more if it is newer than those before it, as no replay is."""
        if now - self._old_last_at > OLD_FORGET:
            self._forget_old()
        if timestamp <= self._old_newest:
            return False
        if not self._old_count:
            self._old_first_at = now
        self._old_count += 1
        self._old_newest = timestamp
        self._old_last_at = now
        return True

    def _is_tolerable(self, now: float) -> bool:
        return (
            self._old_count >= OLD_COUNT
            and now - self._old_first_at >= OLD_SPAN
            and now - self._tolerated_at >= TOLERATE_INTERVAL
        )

    def _forget_old(self) -> None:
        self._old_count = 0
        self._old_newest = b""
