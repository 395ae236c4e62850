"""Two interfaces across a network that loses, repeats and reorders."""

from __future__ import annotations

import random

import pytest

from lopower.wireguard import Drop, HandshakeGaveUp
from tests.wireguard.wire import Side, Wire


class Storm:
    """Delivers with a delay of its own for every copy of every datagram."""

    def __init__(self, wire: Wire, seed: int, loss: float, repeat: float, delay: float) -> None:
        self.wire = wire
        self.chance = random.Random(seed)
        self.loss, self.repeat, self.delay = loss, repeat, delay
        self.flying: list[tuple[float, int, Side, bytes]] = []

    def launch(self) -> None:
        for side, datagram in self.wire.collect():
            if self.chance.random() < self.loss:
                continue
            for _ in range(1 + (self.chance.random() < self.repeat)):
                at = self.wire.now + self.chance.random() * self.delay
                self.flying.append((at, len(self.wire.sent), side, datagram))

    def step(self, seconds: float) -> None:
        self.launch()
        self.wire.now += seconds
        self.flying.sort(key=lambda flight: flight[:2])
        while self.flying and self.flying[0][0] <= self.wire.now:
            _, _, side, datagram = self.flying.pop(0)
            self.wire.deliver([(side, datagram)])
        for side in (self.wire.left, self.wire.right):
            side.interface.handle_timer(self.wire.now)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(("loss", "repeat"), [(0.0, 0.0), (0.05, 0.05), (0.3, 0.3)])
def test_packets_arrive_once_and_whole(seed: int, loss: float, repeat: float) -> None:
    wire = Wire(keepalive=25.0)
    storm = Storm(wire, seed, loss, repeat, delay=0.2)
    sent: dict[Side, list[bytes]] = {wire.left: [], wire.right: []}
    for step in range(3000):
        side = (wire.left, wire.right)[step % 2]
        if step % 7 == 0 and (side is wire.left or side.peer.endpoint):
            inner = wire.send(side, 40 + step % 500, step % 251)
            sent[side].append(inner)
        storm.step(0.1)
    for _ in range(30):
        storm.step(0.1)
    for side, other in ((wire.left, wire.right), (wire.right, wire.left)):
        assert len(other.packets) <= len(sent[side])
        assert set(other.packets) <= set(sent[side])
        assert len(other.packets) >= (1 - loss) * len(sent[side]) * 0.9 - 8
        assert side.saw(HandshakeGaveUp) == 0
        assert set(side.peer.drops) <= {Drop.REPLAY, Drop.OLD_TIMESTAMP, Drop.FLOOD}


def test_a_long_silence_heals() -> None:
    wire = Wire(keepalive=25.0)
    wire.run(10)
    wire.fate = lambda datagram: 0
    wire.run(1000)
    wire.fate = lambda datagram: 1
    wire.run(31)
    inner = wire.send(wire.right)
    wire.settle()
    assert wire.left.packets == [inner]


def test_one_way_only() -> None:
    """The right side hears everything, the left side nothing."""
    wire = Wire()
    wire.connect()
    wire.fate = lambda datagram: int(wire.sent[-1][0] is wire.left)
    for _ in range(10):
        wire.send(wire.left)
        wire.run(5)
    assert wire.left.saw(HandshakeGaveUp) == 0
    wire.run(100)
    assert wire.left.saw(HandshakeGaveUp) == 1
    wire.fate = lambda datagram: 1
    inner = wire.send(wire.left)
    wire.settle()
    assert wire.right.packets[-1] == inner
