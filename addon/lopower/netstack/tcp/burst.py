"""Segments as matrices: bursts that come, bursts that go. Rows are packets, columns are fields."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lopower.bursts import Matrix, RowBuffer, Rows
from lopower.netstack.checksum import native_sum, row_sums
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.sendbuffer import SendBuffer
from lopower.netstack.tcp.sequence import MASK
from lopower.netstack.tcp.wire import ACK, FIN, HEADER, PSH, Path

# Below this a matrix costs more than packets one by one.
SMALLEST_BURST = 4
MAX_LAYOUTS = 16

_MODULUS = np.uint64(65535)
_LONG = np.dtype(">u4")

# Of the 32-bit word with data offset, flags and window: no options, and ACK with or without PSH.
_PLAIN_MASK = np.uint32(0xFFF70000)
_PLAIN = np.uint32((0x5000 | ACK) << 16)

MAX_ROWS = 1024
_STEPS = np.arange(MAX_ROWS, dtype=np.uint32)


class Sink(Protocol):
    """Where packets for devices go."""

    def packet(self, link: Hashable, packet: bytes) -> None:
        """One packet."""

    def burst(self, link: Hashable, packets: Rows) -> None:
        """Equal-size packets, rows padded with zeros to a multiple of 16; valid until it
        returns."""


def plain_acks(
    packets: Matrix, at: int, payload: int, nxt: int, una: int, in_flight: int
) -> tuple[int, int] | None:
    """The last acknowledgement and window of rows that are the next segments of a flow.

    `None` unless every row has no options, only ACK or PSH, the sequence number that follows, and
    an acknowledgement not before the last one nor beyond what is in flight. Without payload, each
    must acknowledge something new.
    """
    fields = packets[:, at + 4 : at + 16].view(_LONG)
    count = len(fields)
    if count > MAX_ROWS or ((fields[:, 2] & _PLAIN_MASK) != _PLAIN).any():
        return None
    expected = _STEPS[:count] * np.uint32(payload) + np.uint32(nxt & MASK)
    if (fields[:, 0] != expected).any():
        return None
    _, last, word = fields[-1].tolist()
    first = int(fields[0, 1])
    if payload and first == last:
        if (fields[:, 1] != last).any():
            return None
        rising = (last - una) & MASK <= in_flight
    else:
        rising = _rising(fields[:, 1], una, in_flight, payload == 0)
    return (last, word & 0xFFFF) if rising else None


def _rising(column: NDArray[np.uint32], una: int, in_flight: int, strictly: bool) -> bool:
    relative = column - np.uint32(una & MASK)
    if int(relative[-1]) > in_flight or (strictly and not relative[0]):
        return False
    before, after = relative[:-1], relative[1:]
    return bool((before < after).all() if strictly else (before <= after).all())


class _Layout:
    """The columns of a row buffer for one header and payload size."""

    __slots__ = (
        "checksum",
        "flags",
        "headers",
        "length",
        "offsets",
        "padding",
        "payload",
        "rows",
        "sequence",
    )

    def __init__(self, buffer: RowBuffer, count: int, header: int, payload: int) -> None:
        self.length = header + payload
        size = (self.length + 15) & ~15
        self.rows = buffer.rows(count, size)
        matrix = self.rows.matrix
        tcp = header - HEADER
        self.headers = matrix[:, :header]
        self.payload = matrix[:, header : self.length]
        self.padding = matrix[:, self.length :] if size > self.length else None
        self.sequence = matrix[:, tcp + 4 : tcp + 8].view(_LONG)[:, 0]
        self.flags = matrix[:, tcp + 13]
        self.checksum = matrix[:, tcp + 16 : tcp + 18].view(np.uint16)[:, 0]
        self.offsets = _STEPS[: len(matrix)] * np.uint32(payload)


class BurstWriter:
    """Turns ranges of a send buffer into packets, equal-size ones into one matrix."""

    __slots__ = ("_buffer", "_count", "_layouts")

    def __init__(self, config: TcpConfig) -> None:
        self._count = config.burst_segments
        self._buffer = RowBuffer(self._count * ((config.mtu + 15) & ~15))
        self._layouts: dict[tuple[int, int], _Layout] = {}

    def write(
        self,
        sink: Sink,
        link: Hashable,
        path: Path,
        buffer: SendBuffer,
        pieces: list[tuple[int, int]],
        mss: int,
        acknowledgment: int,
        window: int,
    ) -> None:
        """Send `pieces` in order; one that ends past the buffer ends with a FIN."""
        rows: list[tuple[int, int]] = []
        for start, end in pieces:
            fin = end > buffer.end
            length = end - start - fin
            full = length // mss
            if fin and full and full * mss == length:
                full -= 1  # the FIN goes with the last data
            if full:
                rows.append((start, full))
                start += full * mss
            if start < end:
                if rows:
                    self._rows(sink, link, path, buffer, rows, mss, acknowledgment, window)
                    rows = []
                flags = ACK | PSH | FIN if fin else ACK | PSH
                data = buffer.peek(start, end - fin)
                packet = path.build(start, acknowledgment, flags, window, b"", data)
                sink.packet(link, packet)
        if rows:
            self._rows(sink, link, path, buffer, rows, mss, acknowledgment, window)

    def _rows(
        self,
        sink: Sink,
        link: Hashable,
        path: Path,
        buffer: SendBuffer,
        pieces: list[tuple[int, int]],
        mss: int,
        acknowledgment: int,
        window: int,
    ) -> None:
        """Full-size segments: matrices as long as there are enough."""
        for part in _split(pieces, mss, self._count):
            count = sum(full for _, full in part)
            if count >= SMALLEST_BURST:
                layout = self._fill(path, buffer, part, count, mss, acknowledgment, window)
                sink.burst(link, layout.rows.head(count))
                continue
            for start, full in part:
                for at in range(start, start + full * mss, mss):
                    count -= 1
                    flags = ACK if count else ACK | PSH
                    data = buffer.peek(at, at + mss)
                    sink.packet(link, path.build(at, acknowledgment, flags, window, b"", data))

    def _fill(
        self,
        path: Path,
        buffer: SendBuffer,
        pieces: list[tuple[int, int]],
        count: int,
        mss: int,
        acknowledgment: int,
        window: int,
    ) -> _Layout:
        layout = self._layouts.get((path.header, mss)) or self._lay_out(path.header, mss)
        length = layout.length
        template = path.template(acknowledgment, window, length)
        layout.headers[:count] = np.frombuffer(template, np.uint8)
        at = 0
        for start, full in pieces:
            stop = at + full
            buffer.copy_rows(start, layout.payload[at:stop])
            layout.sequence[at:stop] = layout.offsets[:full] + np.uint32(start & MASK)
            at = stop
        layout.flags[count - 1] |= PSH
        if layout.padding is not None:
            layout.padding[:count] = 0
        sums = row_sums(layout.rows.matrix[:count])
        beside = np.uint64(native_sum(path.sum_beside_packet(length)))
        layout.checksum[:count] = _MODULUS - (sums + beside) % _MODULUS
        return layout

    def _lay_out(self, header: int, mss: int) -> _Layout:
        if len(self._layouts) >= MAX_LAYOUTS:
            del self._layouts[next(iter(self._layouts))]
        layout = _Layout(self._buffer, self._count, header, mss)
        self._layouts[header, mss] = layout
        return layout


def _split(pieces: list[tuple[int, int]], mss: int, most: int) -> Iterator[list[tuple[int, int]]]:
    """Runs of full segments, put together to parts of at most `most` segments."""
    part: list[tuple[int, int]] = []
    room = most
    for start, full in pieces:
        while full >= room:
            part.append((start, room))
            yield part
            start, full = start + room * mss, full - room
            part, room = [], most
        if full:
            part.append((start, full))
            room -= full
    if part:
        yield part
