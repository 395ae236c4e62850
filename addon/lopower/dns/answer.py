"""What goes into the cache: upstream answers made minimal, and records known here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import dns.flags
import dns.message
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from lopower.dns.cache import MAX_TTL, Entry
from lopower.dns.wire import (
    NOERROR,
    NXDOMAIN,
    QUESTION_NAME,
    TYPE_A,
    TYPE_AAAA,
    record,
    ttl_offsets,
)

MAX_NEGATIVE_TTL = 3600  # RFC 2308 §5: one to three hours
MAX_CHAIN = 16  # CNAMEs followed
FILTERED_TTL = 60  # an answer from which everything was taken away


class Record(NamedTuple):
    """A record at the name that was asked for."""

    type: int
    ttl: int
    rdata: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """Records known on the spot; no records and NOERROR is NODATA."""

    records: tuple[Record, ...] = ()
    rcode: int = NOERROR
    ttl: int = 60  # of an answer without records

    @classmethod
    def addresses(cls, addresses: Iterable[bytes], rdtype: int, ttl: int = 60) -> Answer:
        """The addresses that a question of this type asks for."""
        size = {TYPE_A: 4, TYPE_AAAA: 16}.get(rdtype, 0)
        return cls(tuple(Record(rdtype, ttl, a) for a in addresses if len(a) == size), ttl=ttl)


@dataclass(frozen=True, slots=True)
class Forward:
    """Ask the upstream of this class instead of the default one."""

    to: str


class Filter:
    """Which addresses an answer may carry."""

    __slots__ = ("suffixes", "translate")

    def __init__(self) -> None:
        self.suffixes: tuple[dns.name.Name, ...] = ()  # no A records under these
        self.translate: Callable[[bytes], bytes | None] | None = None

    def applies(self, rrset: dns.rrset.RRset) -> bool:
        return rrset.rdtype == dns.rdatatype.A and (
            self.translate is not None or any(map(rrset.name.is_subdomain, self.suffixes))
        )

    def apply(self, rrset: dns.rrset.RRset) -> dns.rrset.RRset | None:
        """The record set as the client may see it, None when nothing is left."""
        if any(map(rrset.name.is_subdomain, self.suffixes)) or self.translate is None:
            return None
        kept = []
        for rdata in rrset:
            address = self.translate(rdata.to_wire() or b"")
            if address is not None:
                kept.append(dns.rdata.from_wire(rrset.rdclass, rrset.rdtype, address, 0, 4))
        return dns.rrset.from_rdata_list(rrset.name, rrset.ttl, kept) if kept else None


def local(answer: Answer, now: float) -> Entry:
    """An entry for records at the name in question."""
    body = b"".join(record(QUESTION_NAME, r.type, r.ttl, r.rdata) for r in answer.records)
    lifetime = min((r.ttl for r in answer.records), default=answer.ttl)
    offsets = ttl_offsets(body, 0, len(answer.records))
    counts = (len(answer.records), 0, 0)
    return Entry(answer.rcode, body, counts, offsets, lifetime=lifetime, now=now)


def upstream(
    wire: bytes, name: bytes, rdtype: int, now: float, *, dnssec: bool, rules: Filter
) -> Entry | None:
    """The entry for what upstream said; None where it is no answer to this question."""
    try:
        message = dns.message.from_wire(wire)
        return _digest(message, dns.name.from_wire(name, 0)[0], rdtype, now, dnssec, rules)
    except Exception:  # whatever a parser trips over, upstream sent no answer
        return None


def _digest(
    message: dns.message.Message,
    name: dns.name.Name,
    rdtype: int,
    now: float,
    dnssec: bool,
    rules: Filter,
) -> Entry | None:
    rcode = int(message.rcode())
    if rcode not in (NOERROR, NXDOMAIN) or not _answers(message, name, rdtype):
        return None
    answer, filtered = _filtered(_chain(message.answer, name, dnssec), rules)
    positive = any(rrset.rdtype == rdtype for rrset in answer)
    lifetime = min((rrset.ttl for rrset in answer), default=MAX_TTL)
    authority = _authority(message.authority, dnssec) if dnssec or not positive else []
    if not positive:
        negative = _negative_ttl(authority)
        lifetime = min(lifetime, max(negative, FILTERED_TTL) if filtered else negative)
    return _entry(rcode, name, rdtype, (answer, authority), min(lifetime, MAX_TTL), now)


def _answers(message: dns.message.Message, name: dns.name.Name, rdtype: int) -> bool:
    """A complete response to our question."""
    if not message.flags & dns.flags.QR or message.flags & dns.flags.TC:
        return False
    if len(message.question) != 1:
        return False
    question = message.question[0]
    return (question.name, question.rdtype, question.rdclass) == (name, rdtype, dns.rdataclass.IN)


def _chain(
    rrsets: Sequence[dns.rrset.RRset], name: dns.name.Name, dnssec: bool
) -> list[dns.rrset.RRset]:
    """The record sets that belong to the question: at its name, or where CNAMEs lead."""
    cnames = {
        rrset.name: rrset[0].target for rrset in rrsets if rrset.rdtype == dns.rdatatype.CNAME
    }
    chain = [name]
    target = cnames.get(name)
    while target is not None and target not in chain and len(chain) < MAX_CHAIN:
        chain.append(target)
        target = cnames.get(target)
    return [
        rrset
        for rrset in rrsets
        if rrset.rdclass == dns.rdataclass.IN
        and (rrset.name in chain or (dnssec and any(n.is_subdomain(rrset.name) for n in chain)))
    ]


def _filtered(rrsets: list[dns.rrset.RRset], rules: Filter) -> tuple[list[dns.rrset.RRset], bool]:
    kept = [rules.apply(rrset) if rules.applies(rrset) else rrset for rrset in rrsets]
    return [rrset for rrset in kept if rrset is not None], None in kept


def _authority(rrsets: Sequence[dns.rrset.RRset], dnssec: bool) -> list[dns.rrset.RRset]:
    """The SOA of a negative answer, and the proofs for who asks for them."""
    return [
        rrset
        for rrset in rrsets
        if rrset.rdclass == dns.rdataclass.IN
        and (dnssec or rrset.rdtype == dns.rdatatype.SOA)
        and rrset.rdtype != dns.rdatatype.NS
    ]


def _negative_ttl(authority: Sequence[dns.rrset.RRset]) -> int:
    """RFC 2308 §5: the SOA's TTL or its minimum; without one nothing is kept."""
    for rrset in authority:
        if rrset.rdtype == dns.rdatatype.SOA:
            return min(rrset.ttl, int(rrset[0].minimum), MAX_NEGATIVE_TTL)
    return 0


def _entry(
    rcode: int,
    name: dns.name.Name,
    rdtype: int,
    sections: tuple[Sequence[dns.rrset.RRset], Sequence[dns.rrset.RRset]],
    lifetime: int,
    now: float,
) -> Entry:
    message = dns.message.Message(id=0)
    message.question = [dns.rrset.RRset(name, dns.rdataclass.IN, dns.rdatatype.RdataType(rdtype))]
    message.answer, message.authority = map(list, sections)
    for rrset in (*message.answer, *message.authority):
        rrset.ttl = min(rrset.ttl, MAX_TTL)
    wire = message.to_wire(max_size=65535, want_shuffle=False)
    start = 12 + len(name.to_wire() or b"") + 4
    counts = (int.from_bytes(wire[6:8], "big"), int.from_bytes(wire[8:10], "big"), 0)
    offsets = [at - start for at in ttl_offsets(wire, start, sum(counts))]
    return Entry(rcode, wire[start:], counts, offsets, lifetime=lifetime, now=now)
