"""The replay window: wireguard-go's cases, and a set as the model."""

from __future__ import annotations

import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.wireguard.constants import REJECT_AFTER_MESSAGES, REPLAY_WINDOW
from lopower.wireguard.replay import ReplayWindow

# The oldest counter that is still taken is this far behind the newest.
SPAN = REPLAY_WINDOW - 1
LIMIT = SPAN + 1
END = REJECT_AFTER_MESSAGES

# wireguard-go, replay/replay_test.go. Counters from REJECT_AFTER_MESSAGES on are refused before
# the window sees them, so cases 25, 27, 30 and 31 are in test_transport.py.
CASES = [
    (0, True),
    (1, True),
    (1, False),
    (9, True),
    (8, True),
    (7, True),
    (7, False),
    (LIMIT, True),
    (LIMIT - 1, True),
    (LIMIT - 1, False),
    (LIMIT - 2, True),
    (2, True),
    (2, False),
    (LIMIT + 16, True),
    (3, False),
    (LIMIT + 16, False),
    (LIMIT * 4, True),
    (LIMIT * 4 - (LIMIT - 1), True),
    (10, False),
    (LIMIT * 4 - LIMIT, False),
    (LIMIT * 4 - (LIMIT + 1), False),
    (LIMIT * 4 - (LIMIT - 2), True),
    (LIMIT * 4 + 1 - LIMIT, False),
    (0, False),
    (END - 1, True),
    (END - 1, False),
    (END - 2, True),
    (END - 2, False),
    (END - 3, True),
    (0, False),
]


def accepted(window: ReplayWindow, counters: range) -> bool:
    return all(window.accept(counter) for counter in counters)


def test_the_cases_of_wireguard_go() -> None:
    window = ReplayWindow()
    for number, (counter, expected) in enumerate(CASES):
        assert window.accept(counter) is expected, number


def test_bulk_1() -> None:
    window = ReplayWindow()
    assert accepted(window, range(1, SPAN + 1))
    assert window.accept(0)
    assert not window.accept(0)


def test_bulk_2() -> None:
    window = ReplayWindow()
    assert accepted(window, range(2, SPAN + 2))
    assert window.accept(1)
    assert not window.accept(0)


def test_bulk_3() -> None:
    assert accepted(ReplayWindow(), range(SPAN + 1, 0, -1))


def test_bulk_4() -> None:
    window = ReplayWindow()
    assert accepted(window, range(SPAN + 2, 1, -1))
    assert not window.accept(0)


def test_bulk_5() -> None:
    window = ReplayWindow()
    assert accepted(window, range(SPAN, 0, -1))
    assert window.accept(SPAN + 1)
    assert not window.accept(0)


def test_bulk_6() -> None:
    window = ReplayWindow()
    assert accepted(window, range(SPAN, 0, -1))
    assert window.accept(0)
    assert window.accept(SPAN + 1)


class Model:
    """The paper's rule, word for word."""

    def __init__(self) -> None:
        self.seen: set[int] = set()
        self.newest = -1

    def accept(self, counter: int) -> bool:
        if counter in self.seen or self.newest - counter >= REPLAY_WINDOW:
            return False
        self.seen.add(counter)
        self.newest = max(self.newest, counter)
        return True


steps = st.one_of(
    st.integers(-20, 20),
    st.integers(-REPLAY_WINDOW - 3, REPLAY_WINDOW + 3),
    st.integers(-3 * REPLAY_WINDOW, 3 * REPLAY_WINDOW),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(steps, max_size=60))
def test_like_the_model(moves: list[int]) -> None:
    window, model, at = ReplayWindow(), Model(), 5
    for move in moves:
        at = max(0, at + move)
        assert window.accept(at) is model.accept(at)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 60)), max_size=20), st.booleans())
def test_bursts_like_one_by_one(bursts: list[tuple[int, int]], holes: bool) -> None:
    burst, single = ReplayWindow(), ReplayWindow()
    for gap, count in bursts:
        first = burst.next + gap * 1000
        counters = range(first, first + (2 if holes else 1) * count, 2 if holes else 1)
        burst.accept_ascending(counters)
        assert accepted(single, counters)
        assert burst.next == single.next
    for counter in range(max(0, burst.next - 500), burst.next + 2):
        assert burst.accept(counter) is single.accept(counter)


@pytest.mark.parametrize("step", [1, 2, 100, REPLAY_WINDOW, 10**6])
def test_it_stays_small(step: int) -> None:
    window = ReplayWindow()
    for counter in range(0, step * 3000, step):
        assert window.accept(counter)
    size = sum(sys.getsizeof(getattr(window, name)) for name in ReplayWindow.__slots__)
    assert size < 2 * REPLAY_WINDOW // 8 * 2
    if step == 1:
        assert size < 100
