"""Rows, buffers and tails."""

from __future__ import annotations

from lopower.bursts import MAX_LAYOUTS, MAX_TAILS, RowBuffer, Tails


def test_rows_share_one_memory() -> None:
    buffer = RowBuffer(100)
    rows = buffer.rows(3, 30)
    rows.views[1][:] = b"x" * 30
    assert rows.matrix.shape == (3, 30)
    assert rows.matrix[1].tobytes() == b"x" * 30
    assert bytes(buffer.view[30:60]) == b"x" * 30
    assert rows.head(2).matrix.shape == (2, 30)
    assert len(rows.head(2).views) == 2


def test_no_more_rows_than_fit() -> None:
    rows = RowBuffer(100).rows(9, 30)
    assert len(rows.views) == 3
    assert rows.matrix.shape == (3, 30)


def test_layouts_are_kept_and_grow() -> None:
    buffer = RowBuffer(100)
    first = buffer.rows(2, 10)
    second = buffer.rows(5, 10)
    assert second.views[0] is first.views[0]
    assert second.views[1] is first.views[1]
    for size in range(1, MAX_LAYOUTS + 5):
        buffer.rows(1, size)
    assert len(buffer._layouts) == MAX_LAYOUTS


def test_tails_are_sliced_once() -> None:
    buffer, tails = RowBuffer(100), Tails(4)
    two, three = buffer.rows(2, 10), buffer.rows(3, 10)
    first = tails.of(three.views)
    assert [bytes(t) for t in first] == [bytes(v[4:]) for v in three.views]
    assert tails.of(three.views) is first
    assert tails.of(two.views) is first  # a prefix
    more = tails.of(buffer.rows(5, 10).views)
    assert len(more) == 5
    assert tails.of(three.views) is more


def test_tails_of_other_rows_are_others() -> None:
    tails = Tails(4)
    buffers = [RowBuffer(100) for _ in range(MAX_TAILS + 5)]
    for i, buffer in enumerate(buffers):
        buffer.view[:] = bytes([i]) * 100
        assert bytes(tails.of(buffer.rows(3, 10).views)[2]) == bytes([i]) * 6
    assert len(tails._known) == MAX_TAILS
    mixed = [buffers[0].rows(3, 10).views[0], *buffers[1].rows(3, 10).views[1:]]
    assert [bytes(t)[0] for t in tails.of(mixed)] == [0, 1, 1]
