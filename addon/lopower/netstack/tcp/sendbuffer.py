"""The send buffer: a ring that exists only while it holds something."""

from __future__ import annotations

import numpy as np

from lopower.bursts import Matrix

EMPTY = memoryview(bytearray())
SMALLEST = 4096  # of a ring; most flows of small devices never hold more


class BufferPool:
    """Rings that are not in use, up to a bound."""

    __slots__ = ("_bound", "_free", "_held")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self._held = 0
        self._free: dict[int, list[Matrix]] = {}

    def take(self, capacity: int) -> Matrix:
        """A ring with anything in it."""
        free = self._free.get(capacity)
        if free:
            self._held -= capacity
            return free.pop()
        return np.empty(capacity, np.uint8)

    def give(self, ring: Matrix) -> None:
        """The ring is not used any more."""
        capacity = len(ring)
        if self._held + capacity <= self._bound:
            self._held += capacity
            self._free.setdefault(capacity, []).append(ring)


class SendBuffer:
    """Bytes `start <= sequence < end`, from the first unacknowledged one to the last written."""

    __slots__ = ("_mask", "_origin", "_pool", "_ring", "end", "start")

    def __init__(self, pool: BufferPool, start: int) -> None:
        self._pool = pool
        self._ring: Matrix | None = None
        self._mask = 0
        self._origin = start
        self.start = start
        self.end = start

    def __len__(self) -> int:
        return self.end - self.start

    def reserve(self, limit: int, bound: int) -> memoryview:
        """Free adjacent space of at most `limit` bytes, the buffer holding at most `bound`.

        `commit()` follows, with 0 if nothing came.
        """
        used = self.end - self.start
        limit = min(limit, bound - used)
        if limit <= 0:
            return EMPTY
        ring = self._ring
        if ring is None or (used + limit > len(ring) and len(ring) < bound):
            ring = self._grow(used + limit)
        at = (self.end - self._origin) & self._mask
        free = min(limit, len(ring) - at, len(ring) - used)
        return ring.data[at : at + free]

    def commit(self, count: int) -> None:
        """The first `count` bytes of what was reserved have been filled."""
        self.end += count
        if self.end == self.start:
            self._release()

    def write(self, data: bytes | bytearray | memoryview, bound: int) -> int:
        """Take as much of `data` as fits; returns how much that is."""
        count = len(data)
        space = self.reserve(count, bound)
        if len(space) == count:
            space[:] = data
            self.end += count
            return count
        view = memoryview(data)
        taken = 0
        while taken < len(view):
            space = self.reserve(len(view) - taken, bound)
            count = len(space)
            if not count:
                break
            space[:] = view[taken : taken + count]
            self.end += count
            taken += count
        return taken

    def advance(self, start: int) -> None:
        """Everything before `start` is acknowledged."""
        self.start = start
        if start == self.end:
            self._release()

    def peek(self, start: int, end: int) -> memoryview | bytes:
        """The bytes of a range."""
        ring = self._ring
        if ring is None:
            return b""
        at = (start - self._origin) & self._mask
        stop = at + end - start
        if stop <= len(ring):
            return ring.data[at:stop]
        return b"".join((ring.data[at:], ring.data[: stop - len(ring)]))

    def copy_rows(self, start: int, target: Matrix) -> None:
        """Fill the rows of `target` with what follows `start`."""
        ring = self._ring
        assert ring is not None
        count, size = target.shape
        at = (start - self._origin) & self._mask
        stop = at + count * size
        if stop <= len(ring):
            target[:] = ring[at:stop].reshape(count, size)
            return
        whole = (len(ring) - at) // size
        target[:whole] = ring[at : at + whole * size].reshape(whole, size)
        at += whole * size
        tail = len(ring) - at  # the row across the end of the ring
        target[whole, :tail] = ring[at:]
        target[whole, tail:] = ring[: size - tail]
        rest = count - whole - 1
        target[whole + 1 :] = ring[size - tail : size - tail + rest * size].reshape(rest, size)

    def discard(self) -> None:
        """Forget everything: the connection is over."""
        self.start = self.end
        self._release()

    def _release(self) -> None:
        if self._ring is not None:
            self._pool.give(self._ring)
            self._ring = None
        self._origin = self.end

    def _grow(self, needed: int) -> Matrix:
        """A ring with room for `needed` bytes, with the present ones at its beginning."""
        capacity = SMALLEST
        while capacity < needed:
            capacity *= 2
        ring = self._pool.take(capacity)
        if self._ring is not None:
            held = self.peek(self.start, self.end)
            ring.data[: len(held)] = held
            self._release()
        self._origin = self.start
        self._mask = capacity - 1
        self._ring = ring
        return ring
