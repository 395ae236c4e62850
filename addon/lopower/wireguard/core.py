"""What handshakes, transport and timers of one interface have in common."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from lopower.endpoint import Endpoint
from lopower.wireguard import tai64n
from lopower.wireguard.allowedips import AllowedIps
from lopower.wireguard.constants import REKEY_JITTER, REKEY_TIMEOUT
from lopower.wireguard.events import EndpointChanged, Event
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.noise import StaticKey
from lopower.wireguard.peer import NEVER, Peer
from lopower.wireguard.wakeups import Wakeups

# Events nobody fetches are dropped, oldest first.
MAX_EVENTS = 8192


class Core:
    """Identity, tables, queues and sources of time and chance."""

    __slots__ = (
        "_last_timestamp",
        "allowed_ips",
        "drops",
        "events",
        "outgoing",
        "peers",
        "pending",
        "random",
        "sessions",
        "static",
        "wakeups",
        "wall",
    )

    def __init__(
        self, private_key: bytes, wall: Callable[[], float], random: Callable[[int], bytes]
    ) -> None:
        self.static = StaticKey(private_key)
        self.wall = wall
        self.random = random
        self.peers: dict[bytes, Peer] = {}
        self.sessions: dict[int, Keypair] = {}  # by our index
        self.pending: dict[int, Peer] = {}  # our initiations, by our index
        self.allowed_ips: AllowedIps[Peer] = AllowedIps()
        self.wakeups = Wakeups()
        self.outgoing: list[tuple[Endpoint, bytes]] = []
        self.events: deque[Event] = deque(maxlen=MAX_EVENTS)
        self.drops: dict[str, int] = {}
        self._last_timestamp = bytes(tai64n.SIZE)

    def drop(self, reason: str) -> None:
        """Count a datagram that belongs to no peer."""
        self.drops[reason] = self.drops.get(reason, 0) + 1

    def new_index(self) -> int:
        """A random index that is not in use; it tells an observer nothing."""
        while True:
            index = int.from_bytes(self.random(4))
            if index not in self.sessions and index not in self.pending:
                return index

    def timestamp(self) -> bytes:
        """Our time for an initiation; it grows even when our clock is set back."""
        stamp = max(tai64n.encode(self.wall()), tai64n.successor(self._last_timestamp))
        self._last_timestamp = stamp
        return stamp

    def retry_timeout(self) -> float:
        """REKEY_TIMEOUT with jitter."""
        return REKEY_TIMEOUT + self.jitter()

    def jitter(self) -> float:
        """Between nothing and REKEY_JITTER seconds."""
        return int.from_bytes(self.random(2)) / 65536 * REKEY_JITTER

    def roam(self, peer: Peer, source: Endpoint) -> None:
        """An authenticated packet came from here: answer to here."""
        if peer.endpoint == source:
            return
        self.events.append(EndpointChanged(peer, source, peer.endpoint))
        peer.endpoint = source

    def sent(self, peer: Peer, size: int, now: float) -> None:
        """Any authenticated message goes to this peer."""
        peer.tx_bytes += size
        peer.keepalive_at = NEVER
        peer.traversed_at = now
