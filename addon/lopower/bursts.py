"""A burst of equal-size byte strings as one matrix: rows are packets, columns are header fields.

numpy reads and writes whole columns; ciphers take the rows one by one as ready-made memoryviews.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.uint8]

# A buffer meets a handful of datagram sizes at a time (full, acknowledgement, acknowledgement
# with SACK blocks); past this many the oldest layout is dropped and rebuilt when it comes again.
MAX_LAYOUTS = 16
MAX_ROWS = 64  # what UDP_GRO merges and UDP_SEGMENT splits at most, on every kernel


class Rows(NamedTuple):
    """`matrix` has shape (n, size), dtype uint8; `views[i]` is row i of the same memory."""

    matrix: Matrix
    views: Sequence[memoryview]

    def head(self, count: int) -> Rows:
        """The first `count` rows."""
        return Rows(self.matrix[:count], self.views[:count])


class RowBuffer:
    """One block of memory, laid out on demand as rows of any size; layouts are cached by size."""

    __slots__ = ("_block", "_layouts", "_view")

    def __init__(self, capacity: int, block: Matrix | None = None) -> None:
        self._block = np.zeros(capacity, np.uint8) if block is None else block
        self._view = memoryview(self._block.data)
        self._layouts: dict[int, Rows] = {}

    @property
    def view(self) -> memoryview:
        """The whole block."""
        return self._view

    def rows(self, count: int, size: int) -> Rows:
        """`count` (at most MAX_ROWS) adjacent rows of `size` bytes from the start of the block."""
        layout = self._layouts.get(size)
        if layout is None:
            layout = self._lay_out(size)
        return Rows(layout.matrix[:count], layout.views[:count])

    def _lay_out(self, size: int) -> Rows:
        if len(self._layouts) >= MAX_LAYOUTS:
            del self._layouts[next(iter(self._layouts))]
        count = min(len(self._block) // size, MAX_ROWS)
        matrix = self._block[: count * size].reshape(count, size)
        views = [self._view[i * size : (i + 1) * size] for i in range(count)]
        layout = self._layouts[size] = Rows(matrix, views)
        return layout
