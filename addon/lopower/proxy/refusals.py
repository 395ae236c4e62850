"""What a device was refused, for the person who wonders why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(slots=True)
class Refusal:
    destination: bytes
    port: int
    protocol: str
    reason: str
    count: int
    last: float


class Refusals:
    """The latest refusals of one device, one entry per destination, port and protocol."""

    __slots__ = ("_entries", "_limit", "total")

    def __init__(self, limit: int = 32) -> None:
        self._limit = limit
        self._entries: dict[tuple[bytes, int, str], Refusal] = {}
        self.total = 0

    def add(self, destination: bytes, port: int, protocol: str, reason: str, now: float) -> bool:
        """Count a refusal; True where it is new and so worth a line in the log."""
        self.total += 1
        key = (destination, port, protocol)
        entry = self._entries.pop(key, None)
        new = entry is None
        if entry is None:
            if len(self._entries) >= self._limit:
                del self._entries[next(iter(self._entries))]
            entry = Refusal(destination, port, protocol, reason, 0, now)
        entry.count, entry.last, entry.reason = entry.count + 1, now, reason
        self._entries[key] = entry
        return new

    def __iter__(self) -> Iterator[Refusal]:
        """The newest first."""
        return iter(reversed(list(self._entries.values())))

    def __len__(self) -> int:
        return len(self._entries)

    def clear(self) -> None:
        self._entries.clear()
        self.total = 0
