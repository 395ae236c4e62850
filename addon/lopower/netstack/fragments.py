"""Reassembly of fragmented datagrams (RFC 791, 3.2; RFC 8200, 4.5), bounded in every direction.

Fragments that overlap drop their datagram, for both versions (RFC 5722, RFC 8200): no sender makes
them, and telling which copy counts has been a way around filters. What is dropped stays in the
table, empty, until its time is over, so that late fragments do not start it anew.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Hashable
from struct import pack_into
from typing import NamedTuple

from lopower.netstack.checksum import checksum
from lopower.netstack.ip import (
    ERRONEOUS_FIELD,
    FRAGMENT_HEADER,
    IPV6_HEADER,
    IpError,
    IpHeader,
    Packet,
    ParameterProblem,
)

TIMEOUT = 30.0  # seconds; Linux's figure, between RFC 791's 15 and RFC 8200's 60

MAX_LENGTH = 65535

# 65,535 bytes in packets of 576, the least every IPv4 host takes, are 119 fragments.
MAX_PIECES = 128

# Two of the largest datagrams, or sixteen answers of DNSSEC size: more than any device has had on
# the way at once, and little enough that a device that loses fragments for ever costs 128 KiB.
MAX_LINK_DATAGRAMS = 16
MAX_LINK_BYTES = 131_072

# All links together: eight that misbehave at the same time.
MAX_DATAGRAMS = 128
MAX_BYTES = 1_048_576

Key = tuple[Hashable, int, bytes, bytes, int, int]


class Expired(NamedTuple):
    """A datagram whose time ran out; `first` is its first fragment, b"" if that never came."""

    link: Hashable
    first: bytes


class _Datagram:
    __slots__ = (
        "deadline",
        "dropped",
        "end",
        "head",
        "next_header_at",
        "pieces",
        "size",
        "starts",
    )

    def __init__(self, deadline: float) -> None:
        self.deadline = deadline
        self.starts: list[int] = []  # sorted, beside `pieces`
        self.pieces: list[bytes] = []
        self.size = 0
        self.end = -1  # of the data, known from the last fragment
        self.head = b""  # what stands before the data in the first fragment
        self.next_header_at = 0
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True
        self.starts, self.pieces, self.size = [], [], 0


class Reassembler:
    """Fragments in, whole packets out; `drops` counts by reason what never becomes one."""

    __slots__ = ("_datagrams", "_drops", "_link_bytes", "_link_datagrams", "_size")

    def __init__(self, drops: Counter[str]) -> None:
        self._drops = drops
        self._datagrams: dict[Key, _Datagram] = {}  # oldest first: all wait equally long
        self._size = 0
        self._link_bytes: Counter[Hashable] = Counter()
        self._link_datagrams: Counter[Hashable] = Counter()

    def __len__(self) -> int:
        return len(self._datagrams)

    @property
    def size(self) -> int:
        """The bytes that all incomplete datagrams hold together."""
        return self._size

    def add(self, link: Hashable, packet: Packet, ip: IpHeader, now: float) -> bytes | None:
        """Take one fragment; the whole packet when it was the last one missing.

        Raises `IpError` for a fragment no sender makes.
        """
        fragment = ip.fragment
        assert fragment is not None
        data = bytes(packet[ip.header_length : ip.total_length])
        _check(fragment.offset, len(data), fragment.more, ip)
        protocol = ip.protocol if ip.version == 4 else 0
        key = (link, ip.version, ip.source, ip.destination, fragment.identification, protocol)
        datagram = self._datagrams.get(key)
        if datagram is None:
            datagram = self._open(key, now)
        if datagram.dropped:
            self._drops["fragment of a dropped datagram"] += 1
            return None
        reason = self._insert(key, datagram, fragment.offset, data, fragment.more)
        if reason is not None:
            self._drops[reason] += 1
            return None
        if fragment.offset == 0:
            datagram.head = bytes(packet[: ip.header_length])
            datagram.next_header_at = fragment.next_header_at
        if datagram.size != datagram.end or key not in self._datagrams:
            return None
        self._close(key, datagram)
        return _join(datagram, ip.version)

    def _open(self, key: Key, now: float) -> _Datagram:
        link = key[0]
        if self._link_datagrams[link] >= MAX_LINK_DATAGRAMS:
            self._evict(link)
        elif len(self._datagrams) >= MAX_DATAGRAMS:
            self._evict(None)
        datagram = self._datagrams[key] = _Datagram(now + TIMEOUT)
        self._link_datagrams[link] += 1
        return datagram

    def _insert(
        self, key: Key, datagram: _Datagram, start: int, data: bytes, more: bool
    ) -> str | None:
        """Put one piece in its place, or tell why not."""
        starts, pieces = datagram.starts, datagram.pieces
        at = bisect_left(starts, start)
        if at < len(starts) and starts[at] == start and pieces[at] == data:
            return "duplicate fragment"
        end = start + len(data)
        if at < len(starts) and starts[at] < end:
            return self._drop(key, datagram, "overlapping fragments")
        if at and starts[at - 1] + len(pieces[at - 1]) > start:
            return self._drop(key, datagram, "overlapping fragments")
        known = datagram.end
        if (known >= 0 and (end > known or not more)) or (not more and at < len(starts)):
            return self._drop(key, datagram, "fragments past the end")
        if len(starts) >= MAX_PIECES:
            return self._drop(key, datagram, "too many fragments")
        if not more:
            datagram.end = end
        starts.insert(at, start)
        pieces.insert(at, data)
        self._account(key[0], datagram, len(data))
        self._enforce(key[0])
        return None

    def _enforce(self, link: Hashable) -> None:
        """Make room by forgetting the oldest, which may be the one that was just added to."""
        while self._link_bytes[link] > MAX_LINK_BYTES:
            self._evict(link)
        while self._size > MAX_BYTES:
            self._evict(None)

    def _evict(self, link: Hashable | None) -> None:
        """Forget the oldest datagram, of `link` or of all."""
        key = next(k for k in self._datagrams if link is None or k[0] == link)
        self._drops["fragment limit"] += 1
        self._close(key, self._datagrams[key])

    def _drop(self, key: Key, datagram: _Datagram, reason: str) -> str:
        self._account(key[0], datagram, -datagram.size)
        datagram.drop()
        return reason

    def _account(self, link: Hashable, datagram: _Datagram, count: int) -> None:
        datagram.size += count
        self._size += count
        self._link_bytes[link] += count

    def _close(self, key: Key, datagram: _Datagram) -> None:
        link = key[0]
        del self._datagrams[key]
        self._size -= datagram.size
        self._link_bytes[link] -= datagram.size
        self._link_datagrams[link] -= 1
        if not self._link_datagrams[link]:
            del self._link_datagrams[link], self._link_bytes[link]

    def drop_link(self, link: Hashable) -> None:
        """Forget all that came from `link`."""
        for key in [key for key in self._datagrams if key[0] == link]:
            self._close(key, self._datagrams[key])

    def deadline(self) -> float | None:
        """When the oldest datagram's time is over."""
        for datagram in self._datagrams.values():
            return datagram.deadline
        return None

    def expire(self, now: float) -> list[Expired]:
        """Forget what has waited too long."""
        expired = []
        while self._datagrams:
            key, datagram = next(iter(self._datagrams.items()))
            if datagram.deadline > now:
                break
            if not datagram.dropped:
                self._drops["reassembly timeout"] += 1
                first = datagram.head + datagram.pieces[0] if datagram.head else b""
                expired.append(Expired(key[0], first))
            self._close(key, datagram)
        return expired


def _check(offset: int, length: int, more: bool, ip: IpHeader) -> None:
    if not length or (more and length & 7):
        raise IpError("fragment length")
    unfragmentable = ip.header_length
    problem = None
    if ip.version == 6:
        # RFC 8200, 4.5: the limit is on the payload, and the sender is told of it.
        unfragmentable -= IPV6_HEADER + FRAGMENT_HEADER
        offset_at = ip.header_length - FRAGMENT_HEADER + 2
        problem = ParameterProblem(ERRONEOUS_FIELD, offset_at)
    if unfragmentable + offset + length > MAX_LENGTH:
        raise IpError("fragments too long", problem)


def _join(datagram: _Datagram, version: int) -> bytes:
    if version == 4:
        packet = bytearray(b"".join((datagram.head, *datagram.pieces)))
        # Options may make the first header longer than those the length was checked with.
        if len(packet) > MAX_LENGTH:
            raise IpError("fragments too long")
        pack_into("!HHH", packet, 2, len(packet), 0, 0)
        pack_into("!H", packet, 10, 0)
        pack_into("!H", packet, 10, checksum(packet[: len(datagram.head)]))
        return bytes(packet)
    head = bytearray(datagram.head[:-FRAGMENT_HEADER])
    head[datagram.next_header_at] = datagram.head[-FRAGMENT_HEADER]
    packet = bytearray(b"".join((head, *datagram.pieces)))
    if len(packet) - IPV6_HEADER > MAX_LENGTH:
        raise IpError("fragments too long")
    pack_into("!H", packet, 4, len(packet) - IPV6_HEADER)
    return bytes(packet)
