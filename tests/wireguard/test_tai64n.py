"""Timestamps, and which of them count."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.wireguard.tai64n import (
    MAX_AHEAD,
    TOLERATE_INTERVAL,
    TimestampGuard,
    Verdict,
    decode,
    encode,
    successor,
)

WALL = 1_750_000_000.0
FRESH, OLD, TOLERATED = Verdict.FRESH, Verdict.OLD, Verdict.TOLERATED


def test_the_format() -> None:
    assert encode(0.0).hex() == "400000000000000a" + "00000000"
    assert encode(1.0).hex() == "400000000000000b" + "00000000"
    assert encode(-5.0) == encode(0.0)


@given(st.floats(0, 4e9))
def test_round_trip_and_whitening(seconds: float) -> None:
    stamp = encode(seconds)
    assert len(stamp) == 12
    assert int.from_bytes(stamp[8:]) % 2**24 == 0
    assert seconds - 0.0168 <= decode(stamp) <= seconds + 1e-6
    assert successor(stamp) > stamp
    assert int.from_bytes(successor(stamp)[8:]) < 1_000_000_000


@given(st.binary(min_size=12, max_size=12))
def test_any_bytes_are_some_time(stamp: bytes) -> None:
    decode(stamp)


def test_timestamps_grow() -> None:
    guard = TimestampGuard()
    first, second = encode(WALL), encode(WALL + 1)
    assert guard.judge(first, 0, WALL, True) is FRESH
    assert guard.judge(first, 1, WALL, True) is OLD
    assert guard.judge(second, 2, WALL, True) is FRESH
    assert guard.judge(first, 3, WALL, True) is OLD
    assert guard.mark == second


def test_a_kept_mark_counts() -> None:
    guard = TimestampGuard(encode(WALL))
    assert guard.judge(encode(WALL - 1), 0, WALL, False) is OLD
    assert guard.judge(encode(WALL), 0, WALL, False) is OLD
    assert guard.judge(encode(WALL + 1), 0, WALL, False) is FRESH


def test_a_clock_that_was_ahead_costs_two_minutes_at_most() -> None:
    guard = TimestampGuard()
    ahead = 5 * 3600.0
    assert guard.judge(encode(WALL + ahead), 0, WALL, False) is FRESH
    assert guard.mark == encode(WALL + MAX_AHEAD)
    # It goes on with its wrong clock ...
    assert guard.judge(encode(WALL + ahead + 120), 120, WALL + 120, False) is FRESH
    # ... nobody can say the same again ...
    assert guard.judge(encode(WALL + ahead), 121, WALL + 121, False) is OLD
    # ... and once it is set right, it is heard as soon as the mark has passed.
    assert guard.judge(encode(WALL + 130), 130, WALL + 130, False) is OLD
    now = 120 + MAX_AHEAD + 1
    assert guard.judge(encode(WALL + now), now, WALL + now, False) is FRESH


def old_series(
    guard: TimestampGuard, start: float, times: list[float], live: bool
) -> list[Verdict]:
    """A device far behind retries at these times."""
    return [guard.judge(encode(start + t), t, WALL + t, live) for t in times]


def test_a_clock_that_is_behind_is_tolerated_after_a_while() -> None:
    guard = TimestampGuard(encode(WALL))
    verdicts = old_series(guard, 1000.0, [0, 5, 10, 15, 20], False)
    assert verdicts == [OLD, OLD, OLD, TOLERATED, TOLERATED]
    assert guard.mark == encode(WALL)  # until the device has used the session
    guard.reset(encode(1020.0), WALL)
    assert guard.mark == encode(1020.0)
    assert guard.judge(encode(1025.0), 30, WALL + 30, True) is FRESH


def test_not_with_a_live_session() -> None:
    guard = TimestampGuard(encode(WALL))
    assert set(old_series(guard, 1000.0, [0, 5, 10, 15, 20], True)) == {OLD}


def test_not_if_there_are_too_few() -> None:
    guard = TimestampGuard(encode(WALL))
    assert set(old_series(guard, 1000.0, [0, 20], False)) == {OLD}


def test_replays_do_not_count() -> None:
    guard = TimestampGuard(encode(WALL))
    stamp = encode(1000.0)
    assert {guard.judge(stamp, t, WALL + t, False) for t in range(0, 55, 5)} == {OLD}
    assert old_series(guard, 1000.0, [56, 57], False)[-1] is TOLERATED
    assert guard.judge(stamp, 59, WALL + 59, False) is OLD


def test_tolerance_is_rate_limited() -> None:
    guard = TimestampGuard(encode(WALL))
    verdicts = old_series(guard, 1000.0, [0, 8, 16, 17, 18, 16 + TOLERATE_INTERVAL], False)
    assert verdicts == [OLD, OLD, TOLERATED, OLD, OLD, TOLERATED]


def test_a_series_is_forgotten() -> None:
    guard = TimestampGuard(encode(WALL))
    assert old_series(guard, 1000.0, [0, 10, 80, 85, 90], False) == [OLD] * 5
    assert guard.judge(encode(1200.0), 96, WALL + 96, False) is TOLERATED


def test_forget_takes_anything() -> None:
    guard = TimestampGuard(encode(WALL))
    guard.forget()
    assert guard.mark is None
    assert guard.judge(encode(5.0), 0, WALL, True) is FRESH


@pytest.mark.parametrize("stamp", [bytes(12), b"\xff" * 12])
def test_extremes(stamp: bytes) -> None:
    guard = TimestampGuard()
    assert guard.judge(stamp, 0, WALL, False) is FRESH
    assert guard.mark is not None
    assert guard.mark <= encode(WALL + MAX_AHEAD)
