"""The heap of wake-ups."""

from __future__ import annotations

import random

from lopower.wireguard.peer import NEVER, Peer
from lopower.wireguard.wakeups import Wakeups


def peers(count: int) -> list[Peer]:
    return [Peer(bytes([i]) * 32, b"") for i in range(count)]


def test_the_earliest_counts() -> None:
    wakeups, [peer] = Wakeups(), peers(1)
    assert wakeups.deadline() is None
    wakeups.arm(peer, 5.0)
    wakeups.arm(peer, 7.0)
    wakeups.arm(peer, 3.0)
    assert wakeups.deadline() == 3.0
    assert wakeups.due(2.9) == []
    assert wakeups.due(3.0) == [peer]
    assert wakeups.deadline() is None  # the stale entry went with it


def test_disarmed_and_removed_peers_are_left_alone() -> None:
    wakeups, (one, two) = Wakeups(), peers(2)
    wakeups.arm(one, 5.0)
    wakeups.disarm(one)
    wakeups.disarm(one)
    two.removed = True
    wakeups.arm(two, 5.0)
    wakeups.arm(one, NEVER)
    assert wakeups.due(10.0) == []


def test_like_a_scan() -> None:
    chance, wakeups, all_peers = random.Random(1), Wakeups(), peers(20)
    now, expected = 0.0, dict.fromkeys(all_peers, NEVER)
    for _ in range(5000):
        peer, at = chance.choice(all_peers), now + chance.random() * 50
        wakeups.arm(peer, at)
        expected[peer] = min(expected[peer], at)
        if chance.random() < 0.05:
            now += chance.random() * 10
            due = wakeups.due(now)
            assert sorted(map(id, due)) == sorted(id(p) for p, at in expected.items() if at <= now)
            for peer in due:
                expected[peer] = NEVER
            assert (wakeups.deadline() or NEVER) == min(expected.values())
        assert len(wakeups) <= 2 * 20 + 64 + 1


def test_stale_entries_do_not_pile_up() -> None:
    wakeups, (one, two) = Wakeups(), peers(2)
    wakeups.arm(two, 1e6)
    for i in range(1000):
        wakeups.arm(one, 1e5 - i)
    assert len(wakeups) <= 2 * 2 + 64 + 1
    assert wakeups.deadline() == 1e5 - 999
