"""The receiving half: in-order bytes, what waits for a hole to fill, and the window.

Sequence numbers are unwrapped. What is advertised is never taken back: `edge` only grows, and what
is inside is always accepted, as are the `slack` bytes after it that rounding may have added.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf

from lopower.netstack.tcp.config import TcpConfig

MAX_SACK_BLOCKS = 4  # what 40 bytes of options hold without timestamps
MAX_WINDOW = 65535

# A peer may send a 4 MB window in one-byte segments: small ones are put together, as an object each
# would be forty times their size.
SMALL = 512
PUT_TOGETHER = 16384

# RFC 9438's peers double per round trip, so twice what came in the last one is wanted; some more
# for segments on the way.
SLACK_SEGMENTS = 16

# Of the receiver's measurement: a burst brings a window at one moment.
MIN_RTT = 0.001

Chunk = bytes | bytearray | memoryview


def append_chunk(chunks: list[Chunk], data: Chunk) -> None:
    """Add a copy of `data`."""
    if not chunks or len(data) >= SMALL:
        chunks.append(bytes(data))
        return
    last = chunks[-1]
    if isinstance(last, bytearray) and len(last) < PUT_TOGETHER:
        last += data
    else:
        chunks.append(bytearray(data))


class Range:
    """Bytes that have arrived beyond a hole."""

    __slots__ = ("chunks", "end", "start")

    def __init__(self, start: int, data: Chunk) -> None:
        self.start = start
        self.end = start + len(data)
        self.chunks: list[Chunk] = []
        append_chunk(self.chunks, data)


def _start_of(piece: Range) -> int:
    return piece.start


class OutOfOrder:
    """Ranges in sequence order, and the order in which they last grew, for SACK blocks."""

    __slots__ = ("_bound", "ranges", "recent")

    def __init__(self, bound: int) -> None:
        self.ranges: list[Range] = []
        self.recent: list[Range] = []
        self._bound = bound

    def insert(self, start: int, data: Chunk) -> bool:
        """Keep what of `data` is not here yet; returns whether it is here now."""
        end = start + len(data)
        at = bisect_right(self.ranges, start, key=_start_of)
        if at and self.ranges[at - 1].end >= start:
            at -= 1
            grown = self.ranges[at]
        elif len(self.ranges) >= self._bound:
            return False
        else:
            stop = self.ranges[at].start if at < len(self.ranges) else end
            grown = Range(start, data[: min(stop, end) - start])
            self.ranges.insert(at, grown)
        self._grow(at, grown, start, end, data)
        self._touch(grown)
        return True

    def _grow(self, at: int, grown: Range, start: int, end: int, data: Chunk) -> None:
        """Fill `grown` up to `end`, swallowing the ranges that it meets."""
        ranges = self.ranges
        while True:
            following = ranges[at + 1] if at + 1 < len(ranges) else None
            stop = end if following is None else min(end, following.start)
            if stop > grown.end:
                append_chunk(grown.chunks, data[grown.end - start : stop - start])
                grown.end = stop
            if following is None or following.start > grown.end:
                return
            grown.chunks += following.chunks
            grown.end = following.end
            del ranges[at + 1]
            if following in self.recent:
                self.recent.remove(following)

    def _touch(self, grown: Range) -> None:
        recent = self.recent
        if recent and recent[0] is grown:
            return
        if grown in recent:
            recent.remove(grown)
        recent.insert(0, grown)
        del recent[MAX_SACK_BLOCKS:]

    def pop(self, sequence: int) -> Range | None:
        """The first range, once the hole before it is filled up to `sequence`."""
        if not self.ranges or self.ranges[0].start > sequence:
            return None
        first = self.ranges.pop(0)
        if first in self.recent:
            self.recent.remove(first)
        return first


class Receiver:
    """Everything about what the peer sends."""

    __slots__ = (
        "_config",
        "_copied",
        "_head",
        "_last_copied",
        "_mark",
        "_rtt",
        "_window_at",
        "_window_end",
        "chunks",
        "duplicate",
        "edge",
        "fin_at",
        "limit",
        "mss",
        "nxt",
        "queue",
        "readable",
        "shift",
        "slack",
    )

    def __init__(self, config: TcpConfig, initial: int, mss: int, shift: int) -> None:
        self._config = config
        self.nxt = initial + 1  # RCV.NXT
        self.limit = config.receive_buffer
        self.edge = self.nxt + min(self.limit, MAX_WINDOW)  # what has been advertised
        self.mss = mss
        self.shift = shift
        self.slack = (1 << shift) - 1
        self.chunks: list[Chunk] | None = None
        self._head = 0  # bytes of the first chunk that have been read
        self.readable = 0
        self.queue: OutOfOrder | None = None
        self.duplicate: tuple[int, int] | None = None  # to be reported (RFC 2883)
        self.fin_at = inf  # the FIN's sequence number, once it is known
        self._copied = 0  # bytes read since `_mark`
        self._last_copied = 0
        self._mark = 0.0
        self._rtt = 0.0  # how long a window of data takes to come
        self._window_at = 0.0
        self._window_end = 0

    @property
    def finished(self) -> bool:
        """Whether the FIN has come, and everything before it."""
        return self.nxt > self.fin_at

    def deliver(self, data: bytes) -> None:
        """In-order bytes of a whole burst; the caller has checked that they fit."""
        if self.chunks is None:
            self.chunks = []
        self.chunks.append(data)
        count = len(data)
        self.readable += count
        self.nxt += count

    def receive(self, start: int, data: Chunk, fin: bool) -> bool:
        """A segment that overlaps the window; returns whether RCV.NXT has moved."""
        end = start + len(data)
        edge = self.edge + self.slack
        if fin and self.fin_at == inf and end <= edge:
            self.fin_at = end
        limit = min(edge, self.fin_at)
        if end > limit:
            data = data[: int(limit) - start]
            end = start + len(data)
        before = self.nxt
        if start < before:
            if end > start:
                self.duplicate = (start, min(before, end))
            data = data[before - start :]
            start = before
        if start == before:
            self._in_order(data)
        elif len(data):
            self._out_of_order(start, data)
        if self.nxt == self.fin_at:
            self.nxt += 1
            self.queue = None
        return self.nxt > before

    def _in_order(self, data: Chunk) -> None:
        if len(data):
            if self.chunks is None:
                self.chunks = []
            append_chunk(self.chunks, data)
            self.readable += len(data)
            self.nxt += len(data)
        if self.queue is not None:
            self._drain_queue()

    def _drain_queue(self) -> None:
        queue = self.queue
        assert queue is not None
        while (piece := queue.pop(self.nxt)) is not None:
            self._append_range(piece)
        if not queue.ranges:
            self.queue = None

    def _append_range(self, piece: Range) -> None:
        """Take over the chunks of a range, but for what has come twice."""
        skip = self.nxt - piece.start
        if skip >= piece.end - piece.start:
            return
        if self.chunks is None:
            self.chunks = []
        for chunk in piece.chunks:
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            self.chunks.append(memoryview(chunk)[skip:] if skip else chunk)
            skip = 0
        self.readable += piece.end - self.nxt
        self.nxt = piece.end

    def _out_of_order(self, start: int, data: Chunk) -> None:
        queue = self.queue
        if queue is None:
            queue = self.queue = OutOfOrder(self._config.max_out_of_order)
        queue.insert(start, data)

    def sack_blocks(self) -> list[tuple[int, int]]:
        """What to report, the most recent first, a duplicate before that (RFC 2018, RFC 2883)."""
        blocks = [(r.start, r.end) for r in self.queue.recent] if self.queue is not None else []
        if self.duplicate is not None:
            blocks.insert(0, self.duplicate)
            self.duplicate = None
        return blocks[:MAX_SACK_BLOCKS]

    def read(self, limit: int) -> bytes:
        """At most `limit` bytes, in order."""
        chunks = self.chunks
        if not chunks or limit <= 0:
            return b""
        if self.readable <= limit:
            return self._read_all(chunks)
        taken: list[Chunk] = []
        left = limit
        at = 0
        while left:
            chunk = chunks[at]
            available = len(chunk) - self._head
            if available > left:
                taken.append(memoryview(chunk)[self._head : self._head + left])
                self._head += left
                break
            taken.append(memoryview(chunk)[self._head :] if self._head else chunk)
            self._head = 0
            left -= available
            at += 1
        del chunks[:at]
        self.readable -= limit
        self._copied += limit
        return b"".join(taken)

    def _read_all(self, chunks: list[Chunk]) -> bytes:
        if self._head:
            chunks[0] = memoryview(chunks[0])[self._head :]
            self._head = 0
        first = chunks[0]
        data = first if len(chunks) == 1 and isinstance(first, bytes) else b"".join(chunks)
        self.chunks = None
        self._copied += self.readable
        self.readable = 0
        return data

    def discard(self) -> None:
        """Nobody will read what is here."""
        self.chunks = None
        self.queue = None
        self._head = 0
        self.readable = 0

    def tune(self, now: float) -> None:
        """Dynamic right-sizing: room for twice what was read in the last round trip."""
        if self.nxt >= self._window_end:
            self._measure(now)
        if now - self._mark < self._rtt:
            return
        copied, last = self._copied, self._last_copied
        if copied > last:
            wanted = 2 * copied + SLACK_SEGMENTS * self.mss
            if last:  # still growing: stay ahead of it (Linux: tcp_rcv_space_adjust)
                wanted += 2 * wanted * (copied - last) // last
            if wanted > self.limit:
                self.limit = min(wanted, self._config.max_receive_buffer)
            self._last_copied = copied
        self._mark = now
        self._copied = 0

    def _measure(self, now: float) -> None:
        """A window of data takes one round trip at least (Linux: tcp_rcv_rtt_measure)."""
        if self._window_end:
            sample = max(now - self._window_at, MIN_RTT)
            self._rtt += (sample - self._rtt) / 8 if self._rtt else sample
        self._window_at = now
        self._window_end = self.edge

    def window(self) -> int:
        """The window to advertise now, scaled; moves the edge (RFC 9293, 3.8.6.2.2)."""
        room = self.nxt + self.limit - self.readable
        if room - self.edge >= self._threshold():
            self.edge = min(room, self.nxt + (MAX_WINDOW << self.shift))
        # Rounded up: rounding must not take back what was promised (RFC 7323, 2.4). The edge stays
        # exact, or it would creep on with every acknowledgement.
        wire = (self.edge - self.nxt + self.slack) >> self.shift
        return max(0, min(wire, MAX_WINDOW))

    def _threshold(self) -> int:
        """How far the edge must move to be worth moving (silly window syndrome)."""
        return min(self.mss, self.limit >> 1)

    def wants_update(self) -> bool:
        """Whether reading has opened the window enough to say so: two segments, or half."""
        if self.fin_at != inf:
            return False
        room = self.nxt + self.limit - self.readable
        room = min(room, self.nxt + (MAX_WINDOW << self.shift))
        return room - self.edge >= min(2 * self.mss, self.limit >> 1)
