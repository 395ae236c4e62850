"""When each peer wants to be looked at next."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from lopower.wireguard.peer import NEVER, Peer

# Entries that no longer count are thrown out when they are in the majority.
_MIN_COMPACT = 64


class Wakeups:
    """A heap with at most one valid entry per peer, that at `peer.wake_at`; no peer is scanned.

    Timers are only ever pushed back or stopped by packets, so packets never touch the heap: a peer
    woken too early computes its next time anew.
    """

    __slots__ = ("_count", "_heap", "_valid")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Peer]] = []
        self._count = 0
        self._valid = 0

    def arm(self, peer: Peer, at: float) -> None:
        """Wake this peer at this time or before."""
        if at >= peer.wake_at or peer.removed:
            return
        if peer.wake_at == NEVER:
            self._valid += 1
        peer.wake_at = at
        self._count += 1
        heappush(self._heap, (at, self._count, peer))
        if len(self._heap) > 2 * self._valid + _MIN_COMPACT:
            self._compact()

    def disarm(self, peer: Peer) -> None:
        """Do not wake this peer."""
        if peer.wake_at != NEVER:
            self._valid -= 1
            peer.wake_at = NEVER

    def deadline(self) -> float | None:
        """The time of the next wake-up; it may turn out that there is nothing to do."""
        return self._heap[0][0] if self._heap else None

    def due(self, now: float) -> list[Peer]:
        """Take out the peers whose time has come."""
        heap = self._heap
        peers = []
        while heap and heap[0][0] <= now:
            at, _, peer = heappop(heap)
            if peer.wake_at == at:
                self.disarm(peer)
                peers.append(peer)
        while heap and heap[0][2].wake_at != heap[0][0]:
            heappop(heap)
        return peers

    def __len__(self) -> int:
        return len(self._heap)

    def _compact(self) -> None:
        self._heap = [entry for entry in self._heap if entry[2].wake_at == entry[0]]
        heapify(self._heap)
