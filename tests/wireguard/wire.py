"""Two WireGuard interfaces on a virtual wire and a virtual clock, and other helpers."""

from __future__ import annotations

import random
from collections.abc import Callable
from ipaddress import ip_address

from lopower.bursts import RowBuffer, Rows
from lopower.endpoint import Endpoint
from lopower.wireguard import Event, Interface, Peer

WALL = 1_750_000_000.0
LEFT, RIGHT = Endpoint("192.0.2.1", 51820), Endpoint("192.0.2.2", 51821)
LEFT_INNER, RIGHT_INNER = "10.90.0.1", "10.90.0.2"
LEFT_INNER6, RIGHT_INNER6 = "fd00::1", "fd00::2"

Datagram = tuple[Endpoint, bytes]


def chance(seed: int) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run."""
    return random.Random(seed).randbytes


def key(seed: int) -> bytes:
    """A private key."""
    return chance(seed)(32)


def packet(source: str, destination: str, size: int = 60, fill: int = 0x5A) -> bytes:
    """An inner packet: headers as far as WireGuard looks at them, and filling."""
    src, dst = ip_address(source), ip_address(destination)
    if src.version == 4:
        head = bytes((0x45, 0)) + size.to_bytes(2) + bytes(8) + src.packed + dst.packed
    else:
        head = bytes((0x60, 0, 0, 0)) + (size - 40).to_bytes(2) + b"\x11\x40"
        head += src.packed + dst.packed
    return head + bytes([fill & 255]) * (size - len(head))


def rows_of(datagrams: list[bytes]) -> Rows:
    """Equal-size byte strings as a burst."""
    size = len(datagrams[0])
    rows = RowBuffer(len(datagrams) * size).rows(len(datagrams), size)
    for view, datagram in zip(rows.views, datagrams, strict=True):
        view[:] = datagram
    return rows


class Side:
    """One interface and what came out of it."""

    def __init__(self, interface: Interface, endpoint: Endpoint) -> None:
        self.interface = interface
        self.endpoint = endpoint
        self.packets: list[bytes] = []
        self.log: list[Event] = []

    @property
    def peer(self) -> Peer:
        """The first peer."""
        return self.interface.peers[0]

    def take(self, datagram: bytes, source: Endpoint, now: float) -> None:
        """A datagram arrives."""
        opened = self.interface.receive(datagram, source, now)
        if opened is not None:
            self.packets.append(bytes(opened[1]))
        self.gather()

    def gather(self) -> None:
        """Fetch the events."""
        while (event := self.interface.next_event()) is not None:
            self.log.append(event)

    def saw(self, kind: type) -> int:
        """How many events of a kind there were."""
        return sum(isinstance(event, kind) for event in self.log)


class Wire:
    """Carries datagrams between two sides; `fate` says what becomes of each."""

    def __init__(
        self, *, preshared_key: bytes | None = None, keepalive: float = 0.0, mtu: int = 1280
    ) -> None:
        self.now = 1000.0
        self.skew = {"left": 0.0, "right": 0.0}  # how far each wall clock is ahead
        left = Interface(key(1), wall=lambda: self._wall("left"), random=chance(3), mtu=mtu)
        right = Interface(key(2), wall=lambda: self._wall("right"), random=chance(4), mtu=mtu)
        self.left, self.right = Side(left, LEFT), Side(right, RIGHT)
        # The left side knows where the right side is, as a device knows its server.
        left.add_peer(
            right.public_key,
            allowed_ips=["0.0.0.0/0", "::/0"],
            endpoint=RIGHT,
            preshared_key=preshared_key,
            persistent_keepalive=keepalive,
        )
        right.add_peer(
            left.public_key,
            allowed_ips=[f"{LEFT_INNER}/32", f"{LEFT_INNER6}/128"],
            preshared_key=preshared_key,
        )
        self.fate: Callable[[bytes], int] = lambda datagram: 1  # copies to deliver
        self.sent: list[tuple[Side, bytes]] = []

    def _wall(self, name: str) -> float:
        return WALL + self.now + self.skew[name]

    def collect(self) -> list[tuple[Side, bytes]]:
        """Take what both sides have to send, without delivering it."""
        collected = []
        for side, other in ((self.left, self.right), (self.right, self.left)):
            for endpoint, datagram in side.interface.datagrams_to_send():
                if endpoint == other.endpoint:
                    collected.append((side, datagram))
        self.sent += collected
        return collected

    def deliver(self, datagrams: list[tuple[Side, bytes]]) -> None:
        """Hand datagrams to the other side."""
        for side, datagram in datagrams:
            other = self.right if side is self.left else self.left
            for _ in range(self.fate(datagram)):
                other.take(datagram, side.endpoint, self.now)

    def settle(self) -> None:
        """Deliver until there is nothing more to say."""
        while datagrams := self.collect():
            self.deliver(datagrams)
        self.left.gather()
        self.right.gather()

    def run(self, seconds: float) -> None:
        """Let time pass, firing timers."""
        end = self.now + seconds
        self.settle()
        while True:
            deadlines = [s.interface.deadline() for s in (self.left, self.right)]
            at = min((d for d in deadlines if d is not None), default=end + 1)
            if at > end:
                break
            self.now = max(self.now, at)
            for side in (self.left, self.right):
                side.interface.handle_timer(self.now)
            self.settle()
        self.now = end

    def connect(self) -> None:
        """A session, begun by the left side and confirmed."""
        self.left.interface.initiate(self.left.peer, self.now)
        self.settle()
        assert self.right.peer.current is not None
        self.sent.clear()

    def send(self, side: Side, size: int = 60, fill: int = 0x5A) -> bytes:
        """One inner packet from a side's own address."""
        left = side is self.left
        addresses = (LEFT_INNER, RIGHT_INNER) if left else (RIGHT_INNER, LEFT_INNER)
        inner = packet(*addresses, size, fill)
        side.interface.send(side.peer, inner, self.now)
        return inner

    def kinds(self) -> list[int]:
        """The types of the datagrams sent since the last connect()."""
        return [datagram[0] for _, datagram in self.sent]
