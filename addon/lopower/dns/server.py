"""The DNS server: questions in, answers out; what is not known becomes an upstream query.

Theory of operation. A question takes the first of these ways that leads to an answer:

1. the very bytes, seen before: a *variant*, a finished answer that is right until its TTLs change;
2. the gateway's own names (`Zones.find`);
3. the cache (`Cache`), from which variants are made;
4. the hook, which knows tailnet names or which upstream does;
5. special-use names that must not be asked upstream (`Zones.special`);
6. upstream. Equal questions share one upstream query, which is also what stops a forwarding loop:
   a question that comes back while it is in flight is never sent again.

An answer past its end is kept for a day and given when upstream fails or is slow (RFC 8767).
The caller's `client` comes back with the answer; `view` separates clients that see other addresses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heappop, heappush
from ipaddress import IPv4Network, IPv6Network
from itertools import count
from typing import NamedTuple

import dns.name

from lopower.dns import answer as make
from lopower.dns.answer import Answer, Filter, Forward
from lopower.dns.cache import Cache, Entry, Key
from lopower.dns.wire import (
    CD,
    CLASS_IN,
    DO,
    HEADER,
    QR,
    RA,
    RD,
    REFUSED,
    SERVFAIL,
    TYPE_ANY,
    TYPE_HINFO,
    TYPE_TXT,
    Query,
    QueryError,
    error,
    name_to_text,
    name_to_wire,
    opt,
    upstream_query,
)
from lopower.dns.zones import Addresses, Network, Zones

__all__ = ["Answer", "Forward", "Limits", "Server", "Statistics", "UpstreamQuery"]

Hook = Callable[[str, int, Hashable], Answer | Forward | None]
Translate = Callable[[Hashable, bytes], bytes | None]

STALE_AFTER = 1.8  # seconds a client waits for upstream before it gets a stale answer (RFC 8767 §5)
STALE_RETRY = 30.0  # seconds before upstream is tried again for a stale answer
GIVE_UP = 6.0  # seconds, when nobody reported an upstream query's end
SERVFAIL_TTL = 5  # RFC 2308 §7.1 allows up to 300
ANY_TTL = 3789  # RFC 8482 §4.2's own example
ANY_ANSWER = Answer((make.Record(TYPE_HINFO, ANY_TTL, b"\x07RFC8482\0"),))
LOOP_LABEL = "loop"

DEFAULT_GATEWAY: Addresses = (
    bytes((10, 90, 0, 1)),
    bytes.fromhex("fd7a115ca1e09909") + bytes(7) + b"\x01",
)
DEFAULT_NETWORKS = (IPv4Network("10.90.0.0/16"), IPv6Network("fd7a:115c:a1e0:9909::/64"))


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds, each against one client or many that ask without end."""

    entries: int = 10_000
    cache_bytes: int = 16 << 20
    variants: int = 4096  # finished answers; a household's hot set is a few hundred
    upstream: int = 256  # queries in flight
    per_client: int = 32  # questions one client waits for
    waiters: int = 256  # clients that wait for one question


@dataclass(slots=True)
class Statistics:
    """Counters since the start."""

    hits: int = 0  # from the cache or a variant
    local: int = 0
    upstream: int = 0  # queries sent
    stale: int = 0
    failures: int = 0  # upstream queries without a usable answer
    refused: int = 0  # by a limit


class UpstreamQuery(NamedTuple):
    """A query to carry; its ID is zero, the carrier chooses it. `to` is the hook's class."""

    id: int
    wire: bytes
    name: str
    type: int
    to: str


class _Variant:
    """A finished answer without its ID, right until `until`."""

    __slots__ = ("until", "wire")

    def __init__(self, wire: bytes, until: float) -> None:
        self.wire = wire
        self.until = until


class _Waiter(NamedTuple):
    client: Hashable
    owner: Hashable
    query: Query
    stream: bool

    def repeats(self, other: _Waiter) -> bool:
        """A retransmission."""
        return self.client == other.client and self.query.id == other.query.id


class _Pending:
    """A question in flight and who waits for it."""

    __slots__ = ("id", "key", "waiters")

    def __init__(self, identifier: int, key: Key) -> None:
        self.id = identifier
        self.key = key
        self.waiters: list[_Waiter] = []


class Server:
    """Sans-IO: gets queries, upstream answers and the time; gives answers and upstream queries."""

    def __init__(
        self,
        zone: str = "lopower.internal",
        gateway: Addresses = DEFAULT_GATEWAY,
        networks: Iterable[Network] = DEFAULT_NETWORKS,
        *,
        private_reverse: bool = False,
        limits: Limits | None = None,
        owner: Callable[[Hashable], Hashable] = lambda client: client,
    ) -> None:
        """`owner` tells the device behind a client, for the limit per client.

        `private_reverse` answers NXDOMAIN for the reverse zones of private networks (RFC 6303), for
        upstreams that are public resolvers.
        """
        self._zone = zone
        self._zones = Zones(zone, gateway, networks, private_reverse=private_reverse)
        self._limits = limits or Limits()
        self._owner = owner
        self._cache = Cache(self._limits.entries, self._limits.cache_bytes)
        self._variants: dict[Hashable, _Variant] = {}
        self._stream_variants: dict[Hashable, _Variant] = {}
        self._filter: tuple[dns.name.Name, ...] = ()
        self._translate: Translate | None = None
        self._hook: Hook | None = None
        self._pending: dict[Key, _Pending] = {}
        self._by_id: dict[int, _Pending] = {}
        self._waiting: dict[Hashable, int] = {}  # questions by owner
        self._ids = count(1)
        self._timers: list[tuple[float, int, bool]] = []  # (when, id, whether to give up)
        self._queries: list[UpstreamQuery] = []
        self._answers: list[tuple[Hashable, bytes]] = []
        self._probe = b""
        self.loop_detected = False
        self.statistics = Statistics()

    # --- settings ----------------------------------------------------------------------------

    def set_local_names(self, names: Mapping[str, Addresses]) -> None:
        """The devices: `{name: (IPv4, IPv6)}`, packed or None; ValueError names a bad name."""
        self._zones.set_names(names)
        self._forget_variants()

    def add_local_name(self, name: str, addresses: Addresses) -> None:
        """One more device; costs the same however many there are."""
        self._zones.add_name(name, addresses)
        self._forget_variants()

    def set_filter(self, names: Iterable[str]) -> None:
        """Serve no A records of names under these, where IPv4 is off."""
        self._filter = tuple(dns.name.from_wire(name_to_wire(text), 0)[0] for text in names)
        self.flush()

    def set_translation(self, translate: Translate | None) -> None:
        """`translate(view, address)` gives the IPv4 address a view sees, None to leave it out.

        It is asked for every A record of an upstream answer for a view that is not None.
        """
        self._translate = translate
        self.flush()

    def set_hook(self, hook: Hook | None) -> None:
        """`hook(name, type, view)` answers, names an upstream class, or None: the usual way.

        Its answers are kept for their TTL; call flush() when what it knows has changed.
        """
        self._hook = hook
        self.flush()

    def flush(self) -> None:
        """Forget every answer."""
        self._cache.clear()
        self._forget_variants()

    def _forget_variants(self) -> None:
        self._variants.clear()
        self._stream_variants.clear()

    # --- questions ---------------------------------------------------------------------------

    def receive(
        self,
        query: bytes | memoryview,
        client: Hashable,
        now: float,
        *,
        stream: bool = False,
        view: Hashable = None,
    ) -> bytes | None:
        """The answer where it is known; None where it follows in answers(), or never."""
        query = bytes(query)
        variants = self._stream_variants if stream else self._variants
        key = query[2:] if view is None else (query[2:], view)
        variant = variants.get(key)
        if variant is not None:
            if now < variant.until:
                self.statistics.hits += 1
                return query[:2] + variant.wire
            del variants[key]
        if len(query) < HEADER.size or query[2] & 0x80:
            return None
        try:
            question = Query(query)
        except QueryError as mistake:
            return error(query, mistake.rcode)
        if question.objection or question.name == self._probe:
            return self._object(question)
        entry, to = self._known(question, view, now), ""
        if entry is None:
            entry, to = self._learn(question, view, now)
        if entry is None:
            waiter = _Waiter(client, self._owner(client), question, stream)
            return self._ask(waiter, _key(question, view), to, now)
        answer = entry.answer(question, stream=stream)
        if question.plain and now < entry.expires:
            if len(variants) >= self._limits.variants:
                del variants[next(iter(variants))]
            variants[key] = _Variant(answer[2:], entry.until(now))
        return answer

    def _object(self, query: Query) -> bytes:
        """Refuse what is no question for us; our own probe is a loop."""
        self.loop_detected |= query.name == self._probe
        return _failure(query, query.objection or REFUSED)

    def _known(self, query: Query, view: Hashable, now: float) -> Entry | None:
        """The gateway's own names and the cache."""
        entry = self._zones.find(query)
        if entry is not None:
            self.statistics.local += 1
            return entry
        if query.type == TYPE_ANY:
            return make.local(ANY_ANSWER, now)
        entry = self._cache.get(_key(query, view), now)
        if entry is None:
            return None
        if now < entry.expires:
            entry.age(now)
            self.statistics.hits += 1
            return entry
        return self._stale(entry) if now < entry.retry_at else None

    def _stale(self, entry: Entry) -> Entry:
        entry.stale()
        self.statistics.stale += 1
        return entry

    def _learn(self, query: Query, view: Hashable, now: float) -> tuple[Entry | None, str]:
        """The answer of the hook or a special-use name, or which upstream to ask."""
        hook = self._hook
        found = None if hook is None else hook(name_to_text(query.name), query.type, view)
        if isinstance(found, Forward):
            return None, found.to
        if found is None:
            return self._zones.special(query), ""
        entry = make.local(found, now)
        if entry.expires > now:
            self._cache.put(_key(query, view), entry)
        return entry, ""

    def _ask(self, waiter: _Waiter, key: Key, to: str, now: float) -> bytes | None:
        """Let the client wait for upstream; refuse beyond a limit, and who wants no recursion."""
        if not waiter.query.flags & RD or not self._wait(waiter, key):
            self.statistics.refused += 1
            return _failure(waiter.query, REFUSED)
        pending = self._pending[key]
        if pending.id not in self._by_id:
            self._send(pending, waiter.query, to, now)
        return None

    def _wait(self, waiter: _Waiter, key: Key) -> bool:
        """Put a client among those who wait for a question; False beyond a limit."""
        limits, pending = self._limits, self._pending.get(key)
        if pending is None:
            if len(self._pending) >= limits.upstream:
                return False
            pending = _Pending(next(self._ids), key)
        elif any(
            w.client == waiter.client and w.query.id == waiter.query.id for w in pending.waiters
        ):
            return True  # a retransmission
        waiting = self._waiting.get(waiter.owner, 0)
        if waiting >= limits.per_client or len(pending.waiters) >= limits.waiters:
            return False
        self._waiting[waiter.owner] = waiting + 1
        self._pending[key] = pending
        pending.waiters.append(waiter)
        return True

    # --- upstream ----------------------------------------------------------------------------

    def _send(self, pending: _Pending, query: Query, to: str, now: float) -> None:
        self._by_id[pending.id] = pending
        heappush(self._timers, (now + STALE_AFTER, pending.id, False))
        heappush(self._timers, (now + GIVE_UP, pending.id, True))
        question = query.name + query.question[len(query.name) :]
        wire = upstream_query(
            question, dnssec=query.dnssec, checking_disabled=bool(query.flags & CD)
        )
        name = name_to_text(query.name)
        self._queries.append(UpstreamQuery(pending.id, wire, name, query.type, to))
        self.statistics.upstream += 1

    def upstream_queries(self) -> list[UpstreamQuery]:
        """The queries to carry since the last call."""
        queries, self._queries = self._queries, []
        return queries

    def receive_upstream(self, id: int, wire: bytes | None, now: float) -> None:
        """The end of an upstream query: an answer, or None where there was none."""
        pending = self._by_id.pop(id, None)
        if pending is None:
            return
        del self._pending[pending.key]
        key = pending.key
        entry = None
        if wire is not None:
            dnssec, rules = bool(key.flags & DO), self._rules(key.view)
            entry = make.upstream(wire, key.name, key.type, now, dnssec=dnssec, rules=rules)
        if entry is None:
            entry = self._failed(key, now)
        elif entry.expires > now:
            self._cache.put(key, entry)
        self._finish(pending, entry)

    def _rules(self, view: Hashable) -> Filter:
        rules, translate = Filter(), self._translate
        rules.suffixes = self._filter
        if translate is not None and view is not None:
            rules.translate = lambda address: translate(view, address)
        return rules

    def _failed(self, key: Key, now: float) -> Entry:
        """A stale answer if there is one, else SERVFAIL for a while."""
        self.statistics.failures += 1
        entry = self._cache.get(key, now)
        if entry is not None:
            entry.retry_at = now + STALE_RETRY
            return self._stale(entry)
        entry = Entry(SERVFAIL, b"", (0, 0, 0), [], lifetime=SERVFAIL_TTL, now=now)
        self._cache.put(key, entry)
        return entry

    def _finish(self, pending: _Pending, entry: Entry) -> None:
        """Answer everybody who waits."""
        for client, owner, query, stream in pending.waiters:
            self._answers.append((client, entry.answer(query, stream=stream)))
            self._waiting[owner] -= 1
            if not self._waiting[owner]:
                del self._waiting[owner]
        pending.waiters.clear()

    def answers(self) -> list[tuple[Hashable, bytes]]:
        """The answers that had to wait, since the last call."""
        answers, self._answers = self._answers, []
        return answers

    # --- time --------------------------------------------------------------------------------

    def deadline(self) -> float | None:
        """When to call handle_timer next."""
        timers = self._timers
        while timers and timers[0][1] not in self._by_id:
            heappop(timers)
        return timers[0][0] if timers else None

    def handle_timer(self, now: float) -> None:
        """Give stale answers to who waited long, and up on queries nobody reported on."""
        while self._timers and self._timers[0][0] <= now:
            _, identifier, last = heappop(self._timers)
            pending = self._by_id.get(identifier)
            if pending is None:
                continue
            if last:
                self.receive_upstream(identifier, None, now)
                continue
            entry = self._cache.get(pending.key, now)
            if entry is not None:
                entry.retry_at = now + STALE_RETRY
                self._finish(pending, self._stale(entry))

    # --- loops -------------------------------------------------------------------------------

    def probe(self, token: str) -> UpstreamQuery:
        """A question nobody else asks: send it to an upstream, and see loop_detected.

        `token` is a random label. An upstream that forwards to us sends the question back.
        """
        name = f"{token}.{LOOP_LABEL}.{self._zone}"
        self._probe = name_to_wire(name)
        question = self._probe + TYPE_TXT.to_bytes(2, "big") + CLASS_IN.to_bytes(2, "big")
        wire = upstream_query(question, dnssec=False, checking_disabled=False)
        return UpstreamQuery(0, wire, name, TYPE_TXT, "")


def _key(query: Query, view: Hashable) -> Key:
    flags = query.flags & CD
    if query.edns is not None:
        flags |= query.edns & DO
    return Key(query.name, query.type, flags, view)


def _failure(query: Query, rcode: int) -> bytes:
    """An error with the question in it."""
    tail = b"" if query.edns is None else opt(query.edns, rcode)
    flags = QR | RA | query.flags & (RD | CD) | rcode & 15
    return HEADER.pack(query.id, flags, 1, 0, 0, bool(tail)) + query.question + tail
