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
# The same for several buffers together.
MAX_TAILS = 128


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
        self._layouts: dict[int, tuple[Matrix, list[memoryview]]] = {}

    @property
    def view(self) -> memoryview:
        """The whole block."""
        return self._view

    def rows(self, count: int, size: int) -> Rows:
        """`count` adjacent rows of `size` bytes from the start of the block, or all that fit."""
        layout = self._layouts.get(size)
        if layout is None:
            layout = self._lay_out(size)
        matrix, views = layout
        if len(views) < count:
            self._slice(layout, min(count, len(matrix)), size)
        return Rows(matrix[:count], views[:count])

    def _lay_out(self, size: int) -> tuple[Matrix, list[memoryview]]:
        if len(self._layouts) >= MAX_LAYOUTS:
            del self._layouts[next(iter(self._layouts))]
        count = len(self._block) // size
        matrix = self._block[: count * size].reshape(count, size)
        layout: tuple[Matrix, list[memoryview]] = (matrix, [])
        self._layouts[size] = layout
        return layout

    def _slice(self, layout: tuple[Matrix, list[memoryview]], count: int, size: int) -> None:
        """Views are made when that many rows are first asked for: a page holds twenty of them."""
        views = layout[1]
        for i in range(len(views), count):
            views.append(self._view[i * size : (i + 1) * size])


class Tails:
    """Rows without their first bytes, sliced once for each cached list of views.

    Lists of views are known again by the identity of their first and last view: whoever passes
    rows keeps its views and passes prefixes of them. For fresh views it slices every time.
    """

    __slots__ = ("_known", "_offset")

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._known: dict[int, tuple[list[memoryview], list[memoryview]]] = {}

    def of(self, views: Sequence[memoryview]) -> list[memoryview]:
        """The tails of these views, in order; the list may be longer."""
        count = len(views)
        known = self._known.get(id(views[0]))
        if known is not None:
            heads, tails = known
            if len(heads) >= count and heads[count - 1] is views[count - 1]:
                return tails
        return self._slice(views)

    def _slice(self, views: Sequence[memoryview]) -> list[memoryview]:
        key = id(views[0])
        if key not in self._known and len(self._known) >= MAX_TAILS:
            del self._known[next(iter(self._known))]
        offset = self._offset
        tails = [view[offset:] for view in views]
        # The views are kept too: as long as they live, no other object has their identity.
        self._known[key] = (list(views), tails)
        return tails
