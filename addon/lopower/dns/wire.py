"""DNS messages as bytes (RFC 1035, 6891): what a query says, and what an answer is made of."""

from __future__ import annotations

import re
from struct import Struct

TYPE_A, TYPE_NS, TYPE_CNAME, TYPE_SOA, TYPE_PTR, TYPE_HINFO = 1, 2, 5, 6, 12, 13
TYPE_TXT, TYPE_AAAA, TYPE_OPT = 16, 28, 41
TYPE_IXFR, TYPE_AXFR, TYPE_ANY = 251, 252, 255
CLASS_IN = 1
META_TYPES = frozenset((0, TYPE_OPT, *range(128, 256)))  # RFC 6895 §3.1: not about data

NOERROR, FORMERR, SERVFAIL, NXDOMAIN, NOTIMP, REFUSED, BADVERS = 0, 1, 2, 3, 4, 5, 16

QR, AA, TC, RD, RA, CD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0010
OPCODE = 0x7800
DO = 0x8000

EDNS_SIZE = 1232  # DNS flag day 2020: fits an IPv6 packet of the minimum MTU
PLAIN_SIZE = 512  # without EDNS (RFC 1035 §4.2.1)
MAX_ADDITIONAL = 8  # a query carries an OPT and perhaps a signature

HEADER = Struct(">2sHHHHH")  # id stays bytes: it is only ever copied
_RECORD = Struct(">HHIH")
_PAIR = Struct(">HH")

_PLAIN_LABEL = re.compile(rb"[a-z0-9_-]{1,63}")

_ESCAPES = [chr(b) if 32 < b < 127 and b not in b'."\\;()@$' else f"\\{b:03}" for b in range(256)]


class QueryError(Exception):
    """The client's mistake, as the response code that tells it so."""

    def __init__(self, rcode: int) -> None:
        super().__init__(rcode)
        self.rcode = rcode


class Query:
    """One question of a client, and how it wants the answer."""

    __slots__ = (
        "edns", "flags", "id", "limit", "name", "plain", "qclass", "question", "type", "version",
    )  # fmt: skip

    def __init__(self, query: bytes) -> None:
        """Parse; QueryError says what is wrong. `query` is at least a header, and no response."""
        self.id, self.flags, questions, answers, authorities, additional = HEADER.unpack_from(query)
        if self.flags & OPCODE:
            raise QueryError(NOTIMP)
        if questions != 1 or answers or authorities or additional > MAX_ADDITIONAL:
            raise QueryError(FORMERR)
        end = name_end(query, 12)
        if end + 4 > len(query):
            raise QueryError(FORMERR)
        self.name = query[12:end].lower()  # a length is at most 63, below every letter
        self.question = query[12 : end + 4]
        self.type, self.qclass = _PAIR.unpack_from(query, end)
        self.edns: int | None = None  # the OPT's flags
        self.version = 0
        self.limit = PLAIN_SIZE
        self.plain = True  # no options: the query is the same whenever it is asked
        self._additional(query, end + 4, additional)

    def _additional(self, query: bytes, offset: int, count: int) -> None:
        for _ in range(count):
            start, offset = offset, name_end(query, offset)
            if offset + 10 > len(query):
                raise QueryError(FORMERR)
            rdtype, rdclass, ttl, length = _RECORD.unpack_from(query, offset)
            if rdtype == TYPE_OPT:
                if self.edns is not None or offset != start + 1:
                    raise QueryError(FORMERR)
                self.edns, self.version = ttl & 0xFFFF, ttl >> 16 & 0xFF
                self.limit = min(max(rdclass, PLAIN_SIZE), EDNS_SIZE)
            self.plain = self.plain and rdtype == TYPE_OPT and not length
            offset += 10 + length
        if offset != len(query):
            raise QueryError(FORMERR)

    @property
    def objection(self) -> int:
        """Why a well-formed question is not one for us: BADVERS, REFUSED, NOTIMP or NOERROR."""
        if self.version:
            return BADVERS
        if self.qclass != CLASS_IN or self.type in (TYPE_AXFR, TYPE_IXFR):
            return REFUSED
        if self.type in META_TYPES and self.type != TYPE_ANY:
            return NOTIMP
        return NOERROR

    @property
    def dnssec(self) -> bool:
        """The client wants signatures."""
        return self.edns is not None and bool(self.edns & DO)


def name_end(message: bytes, offset: int) -> int:
    """The offset after an uncompressed name."""
    start = offset
    try:
        while length := message[offset]:
            if length > 63:
                raise QueryError(FORMERR)
            offset += 1 + length
    except IndexError:
        raise QueryError(FORMERR) from None
    if offset - start >= 255:
        raise QueryError(FORMERR)
    return offset + 1


def ttl_offsets(message: bytes, offset: int, count: int) -> list[int]:
    """Where the TTLs of `count` records stand; `message` is our own, so well-formed."""
    found = []
    for _ in range(count):
        while (length := message[offset]) and length < 64:
            offset += 1 + length
        offset += 2 if length else 1
        found.append(offset + 4)
        offset += 10 + int.from_bytes(message[offset + 8 : offset + 10], "big")
    return found


def record(owner: bytes, rdtype: int, ttl: int, rdata: bytes) -> bytes:
    return owner + _RECORD.pack(rdtype, CLASS_IN, ttl, len(rdata)) + rdata


def pointer(offset: int) -> bytes:
    """A compressed name: what stands at `offset` in the message."""
    return (0xC000 | offset).to_bytes(2, "big")


QUESTION_NAME = pointer(12)


def opt(flags: int, rcode: int = 0) -> bytes:
    """Our OPT record; flags and the upper bits of an extended response code."""
    return b"\0" + _RECORD.pack(TYPE_OPT, EDNS_SIZE, rcode >> 4 << 24 | flags & DO, 0)


def error(query: bytes, rcode: int) -> bytes:
    """An answer to a query that could not be read: a header without a question."""
    identifier, flags, *_ = HEADER.unpack_from(query)
    return HEADER.pack(identifier, QR | flags & (OPCODE | RD) | rcode & 15, 0, 0, 0, 0)


def upstream_query(question: bytes, *, dnssec: bool, checking_disabled: bool) -> bytes:
    """The question as we ask it; whoever sends it chooses the ID."""
    flags = RD | CD if checking_disabled else RD
    header = HEADER.pack(b"\0\0", flags, 1, 0, 0, 1)
    return header + question + opt(DO if dnssec else 0)


def name_to_wire(name: str) -> bytes:
    """A name in its wire form, lower case; ValueError where DNS could not carry it."""
    labels = [label for label in name.lower().removesuffix(".").encode().split(b".") if label]
    if not all(map(_PLAIN_LABEL.fullmatch, labels)) or name.startswith(".") or ".." in name:
        raise ValueError(f"{name!r} is not a DNS name")
    wire = b"".join(bytes((len(label),)) + label for label in labels) + b"\0"
    if len(wire) > 255:
        raise ValueError(f"{name!r} is longer than DNS allows")
    return wire


def name_to_text(wire: bytes) -> str:
    """A name as text without the final dot; odd bytes as \\DDD (RFC 1035 §5.1)."""
    labels, offset = [], 0
    while length := wire[offset]:
        label = wire[offset + 1 : offset + 1 + length]
        plain = _PLAIN_LABEL.fullmatch(label) is not None
        labels.append(label.decode() if plain else "".join(map(_ESCAPES.__getitem__, label)))
        offset += 1 + length
    return ".".join(labels)


def suffixes(name: bytes) -> list[tuple[int, bytes]]:
    """A name and its ancestors below the root, longest first, each with its offset."""
    found, offset = [], 0
    while length := name[offset]:
        found.append((offset, name[offset:]))
        offset += 1 + length
    return found
