"""The sliding window of section 5.4.6: each counter is taken once, however packets are reordered.

RFC 6479 in another shape. Counters nearly always come in order, so what is kept is the set of
those *missing* below the next one expected, as the bits of one integer: empty on a clean link.
"""

from __future__ import annotations

from collections.abc import Sequence

from lopower.wireguard.constants import REPLAY_WINDOW

# The integer is cut back to the window when it has grown to twice its size, not on every gap.
_SLACK = 2 * REPLAY_WINDOW


class ReplayWindow:
    """Which counters have been received. `next` is one past the highest."""

    __slots__ = ("_base", "_missing", "next")

    def __init__(self) -> None:
        self.next = 0
        self._base = 0  # the counter that bit 0 of _missing stands for
        self._missing = 0

    def accept(self, counter: int) -> bool:
        """Take a counter; False if it was taken before or is too old."""
        gap = counter - self.next
        if gap < 0:
            return self._accept_late(counter)
        if gap:
            self._skip(counter, gap)
        self.next = counter + 1
        return True

    def accept_ascending(self, counters: Sequence[int]) -> None:
        """Take strictly ascending counters, of which the first is not below `next`."""
        first, last = counters[0], counters[-1]
        if last - first + 1 != len(counters):
            for counter in counters:
                self.accept(counter)
        elif self.accept(first):
            self.next = last + 1

    def _accept_late(self, counter: int) -> bool:
        if self.next - counter > REPLAY_WINDOW or counter < self._base:
            return False
        bit = 1 << (counter - self._base)
        if not self._missing & bit:
            return False
        self._missing ^= bit
        return True

    def _skip(self, counter: int, gap: int) -> None:
        """The counters from `next` up to `counter` are missing."""
        floor = counter + 1 - REPLAY_WINDOW
        if gap >= REPLAY_WINDOW or not self._missing:
            self._base = max(self.next, floor)
            self._missing = 0
        elif counter - self._base > _SLACK:
            self._missing >>= floor - self._base
            self._base = floor
        start = max(self.next, self._base)
        self._missing |= ((1 << (counter - start)) - 1) << (start - self._base)
