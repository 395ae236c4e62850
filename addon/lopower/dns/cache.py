"""Answers that are kept: prepared bytes and the places of their TTLs, bounded in all."""

from __future__ import annotations

from collections.abc import Hashable
from struct import pack_into
from typing import NamedTuple

from lopower.dns.wire import AA, CD, HEADER, QR, RA, RD, SERVFAIL, TC, Query, opt

MAX_TTL = 86400
MAX_STALE = 86400.0  # seconds an answer is kept past its end (RFC 8767 §5)
STALE_TTL = 30
OVERHEAD = 600  # bytes an entry costs beside its body: 523 measured, long names more

FOREVER = float("inf")


class Key(NamedTuple):
    """What answers are shared by; `view` separates clients that see other addresses."""

    name: bytes
    type: int
    flags: int  # CD and DO: they ask for other records
    view: Hashable


class Entry:
    """One answer without header, question and OPT. Times are on the caller's clock."""

    __slots__ = (
        "_age", "_offsets", "_ttls", "authoritative", "body", "counts", "expires", "rcode",
        "retry_at", "stored",
    )  # fmt: skip

    def __init__(
        self,
        rcode: int,
        body: bytes,
        counts: tuple[int, int, int],
        offsets: list[int],
        *,
        lifetime: float,
        now: float,
        authoritative: bool = False,
    ) -> None:
        """`offsets` are those of the TTLs in the body; FOREVER is an answer that does not age."""
        self.rcode = rcode
        self.body = body
        self.counts = counts
        self._offsets = offsets
        self._ttls = [int.from_bytes(body[at : at + 4], "big") for at in offsets]
        self._age = 0
        self.stored = now
        self.expires = now + lifetime
        self.retry_at = 0.0  # a stale answer: when to try upstream again
        self.authoritative = authoritative

    @property
    def size(self) -> int:
        return len(self.body) + OVERHEAD

    def usable_stale(self, now: float) -> bool:
        """Whether the answer may be given although its time is over."""
        return self.rcode != SERVFAIL and now < self.expires + MAX_STALE

    def until(self, now: float) -> float:
        """How long the bytes of an answer stay right: to the next second of its age."""
        if self.expires == FOREVER:
            return FOREVER
        return min(self.expires, self.stored + int(now - self.stored) + 1)

    def age(self, now: float) -> None:
        """Let the TTLs count down."""
        age = int(now - self.stored)
        if age == self._age or self.expires == FOREVER:
            return
        self._write([max(ttl - age, 0) for ttl in self._ttls])
        self._age = age

    def stale(self) -> None:
        """Give all records the TTL of a stale answer."""
        self._write([min(STALE_TTL, max(ttl, 1)) for ttl in self._ttls])
        self._age = -1

    def _write(self, ttls: list[int]) -> None:
        body = bytearray(self.body)
        for at, ttl in zip(self._offsets, ttls, strict=True):
            pack_into(">I", body, at, ttl)
        self.body = bytes(body)

    def answer(self, query: Query, *, stream: bool) -> bytes:
        """The whole message for a client; too large for it: truncated to the question."""
        flags = QR | RA | query.flags & (RD | CD) | self.rcode
        if self.authoritative:
            flags |= AA
        tail = b"" if query.edns is None else opt(query.edns)
        answers, authorities, additional = self.counts
        body = self.body
        if not stream and 12 + len(query.question) + len(body) + len(tail) > query.limit:
            flags |= TC
            answers = authorities = additional = 0
            body = b""
        counts = (1, answers, authorities, additional + bool(tail))
        return HEADER.pack(query.id, flags, *counts) + query.question + body + tail


class Cache:
    """Entries by key, the least recently used dropped first."""

    __slots__ = ("_entries", "_max_bytes", "_max_entries", "size")

    def __init__(self, max_entries: int, max_bytes: int) -> None:
        self._entries: dict[Key, Entry] = {}
        self._max_entries = max_entries
        self._max_bytes = max_bytes
        self.size = 0

    def get(self, key: Key, now: float) -> Entry | None:
        """The entry, perhaps stale; None once it is of no use any more."""
        entry = self._entries.pop(key, None)
        if entry is None:
            return None
        if now >= entry.expires and not entry.usable_stale(now):
            self.size -= entry.size
            return None
        self._entries[key] = entry
        return entry

    def put(self, key: Key, entry: Entry) -> None:
        old = self._entries.pop(key, None)
        if old is not None:
            self.size -= old.size
        self._entries[key] = entry
        self.size += entry.size
        while len(self._entries) > self._max_entries or self.size > self._max_bytes:
            self.size -= self._entries.pop(next(iter(self._entries))).size

    def clear(self) -> None:
        self._entries.clear()
        self.size = 0

    def __len__(self) -> int:
        return len(self._entries)
