"""The DNS server as its clients see it; dnspython reads every answer."""

from __future__ import annotations

from collections.abc import Hashable
from ipaddress import ip_address
from typing import Any

import dns.edns
import dns.flags
import dns.message
import dns.opcode
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.dns.server import (
    GIVE_UP,
    SERVFAIL_TTL,
    STALE_AFTER,
    STALE_RETRY,
    Answer,
    Forward,
    Limits,
    Server,
    UpstreamQuery,
)

SOA = "ns.example. admin.example. 1 2 3 4 {minimum}"


def ask(name: str = "example.com", kind: str = "A", **options: Any) -> bytes:
    flags = options.pop("flags", dns.flags.RD)
    query = dns.message.make_query(name, kind, flags=flags, **options)
    return query.to_wire()


def records(name: str, ttl: int, kind: str, *values: str) -> dns.rrset.RRset:
    return dns.rrset.from_text(name, ttl, "IN", kind, *values)


def respond(
    query: UpstreamQuery,
    *answer: dns.rrset.RRset,
    rcode: int = 0,
    authority: tuple[dns.rrset.RRset, ...] = (),
) -> bytes:
    message = dns.message.make_response(dns.message.from_wire(query.wire))
    message.set_rcode(dns.rcode.Rcode(rcode))
    message.answer, message.authority = list(answer), list(authority)
    return message.to_wire(max_size=65535, want_shuffle=False)


def parsed(wire: bytes | None) -> dns.message.Message:
    assert wire is not None
    return dns.message.from_wire(wire)


def texts(message: dns.message.Message) -> list[str]:
    return [rrset.to_text() for rrset in message.answer]


class Gateway:
    """A server with an upstream that is asked by hand."""

    def __init__(self, **options: Any) -> None:
        self.server = Server(**options)

    def asks(self, query: bytes, now: float = 0.0, client: Hashable = "c", **options: Any) -> Any:
        """An answer on the spot."""
        return parsed(self.server.receive(query, client, now, **options))

    def waits(
        self, query: bytes, now: float = 0.0, client: Hashable = "c", **options: Any
    ) -> UpstreamQuery:
        """The upstream query a question leads to."""
        assert self.server.receive(query, client, now, **options) is None
        (upstream,) = self.server.upstream_queries()
        return upstream

    def told(self, upstream: UpstreamQuery, wire: bytes | None, now: float = 0.0) -> Any:
        """What the only client gets once upstream has said something."""
        self.server.receive_upstream(upstream.id, wire, now)
        ((_, answer),) = self.server.answers()
        return parsed(answer)

    def knows(self, *answer: dns.rrset.RRset, now: float = 0.0, **options: Any) -> None:
        """Fill the cache."""
        name = answer[0].name.to_text() if answer else "example.com"
        kind = dns.rdatatype.to_text(answer[-1].rdtype) if answer else "A"
        upstream = self.waits(ask(name, kind), now)
        self.told(upstream, respond(upstream, *answer, **options), now)


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


ADDRESS = records("example.com.", 300, "A", "192.0.2.1", "192.0.2.2")


# --- upstream and cache ---------------------------------------------------------------------


def test_a_question_goes_upstream_and_its_answer_is_kept(gateway: Gateway) -> None:
    upstream = gateway.waits(ask("Example.COM", use_edns=False))
    assert (upstream.name, upstream.type, upstream.to) == ("example.com", 1, "")
    sent = dns.message.from_wire(upstream.wire)
    assert (sent.id, sent.edns, sent.payload) == (0, 0, 1232)
    assert sent.question[0].name.to_text() == "example.com."
    answer = gateway.told(upstream, respond(upstream, ADDRESS))
    assert answer.answer == [ADDRESS]
    assert answer.question[0].name.labels[0] == b"Example"
    assert answer.edns == -1
    assert answer.flags == dns.flags.QR | dns.flags.RD | dns.flags.RA
    again = gateway.asks(ask(), 10.5)
    assert texts(again) == [ADDRESS.to_text().replace("300", "290")]
    assert gateway.server.upstream_queries() == []
    assert gateway.server.statistics.upstream == 1


def test_ttls_count_down_second_by_second_and_end(gateway: Gateway) -> None:
    gateway.knows(ADDRESS, records("example.com.", 100, "A", "192.0.2.3"))
    query = ask()
    for now, ttl in ((0.0, 100), (0.99, 100), (1.0, 99), (1.5, 99), (99.9, 1)):
        for _ in range(2):  # the second time it is a variant
            assert gateway.asks(query, now).answer[0].ttl == ttl
    assert gateway.server.receive(query, "c", 100.0) is None


def test_ttls_are_capped(gateway: Gateway) -> None:
    gateway.knows(records("example.com.", 1_000_000, "A", "192.0.2.1"))
    assert gateway.asks(ask()).answer[0].ttl == 86400


def test_a_ttl_of_zero_is_not_kept(gateway: Gateway) -> None:
    gateway.knows(records("example.com.", 0, "A", "192.0.2.1"))
    assert gateway.server.receive(ask(), "c", 0.0) is None


def test_the_id_and_the_case_of_the_question_come_back(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    for name in ("example.com", "eXaMpLe.CoM", "EXAMPLE.com", "eXaMpLe.CoM"):
        query = ask(name)
        wire = gateway.server.receive(query, "c", 1.0)
        assert wire is not None
        assert wire[:2] == query[:2]
        assert wire[12:29] == query[12:29]
        assert len(parsed(wire).answer[0]) == 2


def test_memory_views_are_questions_too(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    for _ in range(2):
        assert gateway.asks(memoryview(bytearray(ask()))).answer  # type: ignore[arg-type]


def test_types_that_differ_by_a_letter_bit_are_not_mixed_up(gateway: Gateway) -> None:
    gateway.knows(records("example.com.", 300, "HTTPS", "1 ."))
    assert gateway.asks(ask(kind="HTTPS")).answer
    upstream = gateway.waits(ask(kind="TYPE97"))
    assert gateway.told(upstream, respond(upstream)).answer == []
    assert gateway.asks(ask(kind="HTTPS")).answer


def test_cname_chains_are_kept_and_strangers_dropped(gateway: Gateway) -> None:
    upstream = gateway.waits(ask("a.example"))
    answer = gateway.told(
        upstream,
        respond(
            upstream,
            records("a.example.", 100, "CNAME", "b.example."),
            records("b.example.", 50, "CNAME", "c.example."),
            records("c.example.", 70, "A", "192.0.2.1"),
            records("victim.example.", 999, "A", "192.0.2.66"),
            authority=(records("example.", 100, "NS", "ns.example."),),
        ),
    )
    assert [rrset.name.to_text()[0] for rrset in answer.answer] == ["a", "b", "c"]
    assert answer.authority == []
    assert gateway.asks(ask("a.example"), 49.0).answer
    assert gateway.server.receive(ask("a.example"), "c", 50.0) is None


def test_a_cname_loop_ends(gateway: Gateway) -> None:
    upstream = gateway.waits(ask("a.example"))
    loop = (
        records("a.example.", 100, "CNAME", "b.example."),
        records("b.example.", 100, "CNAME", "a.example."),
    )
    assert len(gateway.told(upstream, respond(upstream, *loop)).answer) == 2


@pytest.mark.parametrize("rcode", [0, 3])
@pytest.mark.parametrize(
    ("ttl", "minimum", "kept"), [(60, 600, 60), (600, 60, 60), (9999, 9999, 3600)]
)
def test_negative_answers_are_kept_as_long_as_their_soa_says(
    gateway: Gateway, rcode: int, ttl: int, minimum: int, kept: int
) -> None:
    soa = records("example.", ttl, "SOA", SOA.format(minimum=minimum))
    upstream = gateway.waits(ask("no.example"))
    told = gateway.told(upstream, respond(upstream, rcode=rcode, authority=(soa,)))
    assert (told.rcode(), len(told.authority)) == (rcode, 1)
    assert gateway.asks(ask("no.example"), kept - 1.0).rcode() == rcode
    assert gateway.server.receive(ask("no.example"), "c", float(kept)) is None


def test_negative_answers_without_soa_are_not_kept(gateway: Gateway) -> None:
    upstream = gateway.waits(ask())
    assert gateway.told(upstream, respond(upstream)).rcode() == 0
    assert gateway.server.receive(ask(), "c", 0.0) is None


def test_dnssec_questions_have_answers_of_their_own(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    upstream = gateway.waits(ask(want_dnssec=True))
    assert dns.message.from_wire(upstream.wire).ednsflags & dns.flags.DO
    sig = "A 8 2 300 20300101000000 20200101000000 1 example.com. AAAA"
    proof = records("example.com.", 300, "NSEC", "z.example.com. A")
    answer = gateway.told(
        upstream,
        respond(upstream, ADDRESS, records("example.com.", 300, "RRSIG", sig), authority=(proof,)),
    )
    assert (len(answer.answer), len(answer.authority)) == (2, 1)
    assert answer.ednsflags & dns.flags.DO
    assert len(gateway.asks(ask()).answer) == 1


def test_checking_disabled_is_passed_on(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    upstream = gateway.waits(ask(flags=dns.flags.RD | dns.flags.CD))
    assert dns.message.from_wire(upstream.wire).flags & dns.flags.CD
    assert gateway.told(upstream, respond(upstream, ADDRESS)).flags & dns.flags.CD


def bad_responses(query: UpstreamQuery) -> list[bytes | None]:
    good = dns.message.from_wire(respond(query, ADDRESS))
    truncated = dns.message.from_wire(respond(query))
    truncated.flags |= dns.flags.TC
    other = dns.message.make_response(dns.message.make_query("other.example", "A"))
    question = dns.message.from_wire(query.wire)
    empty = dns.message.make_response(question)
    empty.question = []
    return [
        None,
        b"",
        b"junk",
        good.to_wire()[:-3],
        good.to_wire() + b"x",
        query.wire,
        truncated.to_wire(),
        other.to_wire(),
        empty.to_wire(),
        respond(query, rcode=2),
        respond(query, rcode=5),
    ]


@pytest.mark.parametrize("number", range(11))
def test_what_is_no_answer_is_servfail_for_a_while(gateway: Gateway, number: int) -> None:
    upstream = gateway.waits(ask())
    assert gateway.told(upstream, bad_responses(upstream)[number]).rcode() == dns.rcode.SERVFAIL
    assert gateway.asks(ask(), SERVFAIL_TTL - 0.1).rcode() == dns.rcode.SERVFAIL
    upstream = gateway.waits(ask(), SERVFAIL_TTL)
    assert gateway.told(upstream, respond(upstream, ADDRESS), SERVFAIL_TTL).rcode() == 0


def test_unknown_and_late_upstream_answers_are_ignored(gateway: Gateway) -> None:
    upstream = gateway.waits(ask())
    gateway.server.receive_upstream(upstream.id + 1, respond(upstream, ADDRESS), 0.0)
    assert gateway.server.answers() == []
    gateway.told(upstream, respond(upstream, ADDRESS))
    gateway.server.receive_upstream(upstream.id, respond(upstream, ADDRESS), 0.0)
    assert gateway.server.answers() == []


# --- who waits ------------------------------------------------------------------------------


def test_equal_questions_share_one_upstream_query(gateway: Gateway) -> None:
    upstream = gateway.waits(ask(id=1), client="a")
    assert gateway.server.receive(ask("EXAMPLE.com", id=2), "b", 0.1) is None
    assert gateway.server.receive(ask(id=1), "a", 0.2) is None  # a retransmission
    assert gateway.server.receive(ask(id=3), "a", 0.3) is None
    assert gateway.server.upstream_queries() == []
    gateway.server.receive_upstream(upstream.id, respond(upstream, ADDRESS), 0.5)
    answers = [(client, parsed(wire).id) for client, wire in gateway.server.answers()]
    assert answers == [("a", 1), ("b", 2), ("a", 3)]


def test_one_client_cannot_ask_without_end() -> None:
    limits = Limits(per_client=3)
    gateway = Gateway(limits=limits, owner=lambda client: client[0])
    waiting = [
        gateway.waits(ask(f"{n}.example"), client=("device", port))
        for n, port in enumerate((1000, 1001, 1002))
    ]
    refused = gateway.asks(ask("more.example"), client=("device", 1003))
    assert refused.rcode() == dns.rcode.REFUSED
    assert refused.question
    gateway.waits(ask("other.example"), client=("other", 1))
    gateway.told(waiting[0], None)
    gateway.waits(ask("more.example"), client=("device", 1003))
    assert gateway.server.statistics.refused == 1


def test_all_clients_together_are_bounded() -> None:
    gateway = Gateway(limits=Limits(upstream=2, waiters=2))
    gateway.waits(ask("a.example"), client=1)
    assert gateway.server.receive(ask("a.example"), 2, 0.0) is None
    assert gateway.asks(ask("a.example"), client=3).rcode() == dns.rcode.REFUSED
    gateway.waits(ask("b.example"), client=4)
    assert gateway.asks(ask("c.example"), client=5).rcode() == dns.rcode.REFUSED


def test_without_recursion_only_what_is_known_is_told(gateway: Gateway) -> None:
    assert gateway.asks(ask(flags=0)).rcode() == dns.rcode.REFUSED
    gateway.knows(ADDRESS)
    assert gateway.asks(ask(flags=0)).answer


# --- time -----------------------------------------------------------------------------------


def test_an_upstream_nobody_reports_on_is_given_up(gateway: Gateway) -> None:
    gateway.waits(ask(), 10.0)
    assert gateway.server.deadline() == 10.0 + STALE_AFTER
    gateway.server.handle_timer(10.0 + STALE_AFTER)
    assert gateway.server.answers() == []
    assert gateway.server.deadline() == 10.0 + GIVE_UP
    gateway.server.handle_timer(10.0 + GIVE_UP)
    ((_, wire),) = gateway.server.answers()
    assert parsed(wire).rcode() == dns.rcode.SERVFAIL
    assert gateway.server.deadline() is None


def test_the_deadline_forgets_what_is_answered(gateway: Gateway) -> None:
    first = gateway.waits(ask("a.example"), 0.0)
    gateway.waits(ask("b.example"), 1.0)
    gateway.told(first, None, 1.0)
    assert gateway.server.deadline() == 1.0 + STALE_AFTER
    gateway.server.handle_timer(1.0 + STALE_AFTER)
    assert gateway.server.deadline() == 1.0 + GIVE_UP


def test_stale_answers_are_given_when_upstream_fails(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    upstream = gateway.waits(ask(), 400.0)
    stale = gateway.told(upstream, None, 401.0)
    assert texts(stale) == [ADDRESS.to_text().replace("300", "30")]
    assert gateway.asks(ask(), 402.0).answer[0].ttl == 30  # upstream is left alone
    upstream = gateway.waits(ask(), 401.0 + STALE_RETRY)
    fresh = records("example.com.", 300, "A", "192.0.2.9")
    assert gateway.told(upstream, respond(upstream, fresh), 440.0).answer[0].ttl == 300
    assert gateway.server.statistics.stale == 2


def test_stale_answers_are_given_when_upstream_is_slow(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    upstream = gateway.waits(ask(), 400.0)
    gateway.server.handle_timer(400.0 + STALE_AFTER)
    ((_, wire),) = gateway.server.answers()
    assert parsed(wire).answer[0].ttl == 30
    assert gateway.asks(ask(), 402.0).answer[0].ttl == 30
    gateway.server.receive_upstream(upstream.id, respond(upstream, ADDRESS), 403.0)
    assert gateway.server.answers() == []
    assert gateway.asks(ask(), 403.0).answer[0].ttl == 300


def test_stale_answers_end_after_a_day(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    upstream = gateway.waits(ask(), 300.0 + 86400)
    assert gateway.told(upstream, None, 300.0 + 86400).rcode() == dns.rcode.SERVFAIL
    assert gateway.server._cache.size > 0


# --- EDNS and size --------------------------------------------------------------------------


def test_answers_too_large_are_truncated_and_whole_over_a_stream(gateway: Gateway) -> None:
    large = records("example.com.", 300, "A", *(f"192.0.2.{n}" for n in range(70)))
    gateway.knows(large)
    for size, fits in ((None, False), (512, False), (1200, True), (4096, True), (1, False)):
        query = ask(use_edns=False) if size is None else ask(payload=size)
        wire = gateway.server.receive(query, "c", 0.0)
        assert wire is not None
        answer = parsed(wire)
        assert bool(answer.flags & dns.flags.TC) is not fits
        assert bool(answer.answer) is fits
        assert answer.edns == (-1 if size is None else 0)
        assert len(wire) <= max(size or 512, 512)
        stream = gateway.asks(query, stream=True)
        assert len(stream.answer[0]) == 70
        assert not stream.flags & dns.flags.TC


def test_no_datagram_is_larger_than_the_path_can_carry(gateway: Gateway) -> None:
    gateway.knows(records("example.com.", 300, "A", *(f"192.0.2.{n}" for n in range(90))))
    assert gateway.asks(ask(payload=4096)).flags & dns.flags.TC


def test_the_answers_opt_says_what_we_are(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    answer = gateway.asks(ask(use_edns=0, payload=4000))
    assert (answer.edns, answer.payload) == (0, 1232)
    options = [dns.edns.GenericOption(dns.edns.OptionType.COOKIE, b"cookie!!")]
    before = len(gateway.server._variants)
    assert gateway.asks(ask(use_edns=0, options=options)).answer
    assert len(gateway.server._variants) == before


def test_a_version_of_edns_nobody_knows(gateway: Gateway) -> None:
    answer = gateway.asks(ask(use_edns=1))
    assert answer.rcode() == dns.rcode.BADVERS
    assert answer.edns == 0


# --- questions that are none ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "rcode"),
    [
        ("AXFR", dns.rcode.REFUSED),
        ("IXFR", dns.rcode.REFUSED),
        ("TYPE0", dns.rcode.NOTIMP),
        ("OPT", dns.rcode.NOTIMP),
        ("TSIG", dns.rcode.NOTIMP),
        ("MAILB", dns.rcode.NOTIMP),
    ],
)
def test_questions_about_no_data(gateway: Gateway, kind: str, rcode: int) -> None:
    answer = gateway.asks(ask(kind=kind))
    assert answer.rcode() == rcode
    assert answer.question


def test_any_is_answered_minimally(gateway: Gateway) -> None:
    answer = gateway.asks(ask(kind="ANY"))
    assert texts(answer) == ['example.com. 3789 IN HINFO "RFC8482" ""']


@pytest.mark.parametrize("rdclass", ["CH", "HS", "ANY", "NONE"])
def test_other_classes_are_refused(gateway: Gateway, rdclass: str) -> None:
    query = dns.message.make_query("version.bind", "TXT", rdclass).to_wire()
    assert gateway.asks(query).rcode() == dns.rcode.REFUSED


@pytest.mark.parametrize("opcode", [1, 2, 4, 5, 6, 15])
def test_other_opcodes_are_not_implemented(gateway: Gateway, opcode: int) -> None:
    query = bytearray(ask())
    query[2] |= opcode << 3
    answer = gateway.server.receive(bytes(query), "c", 0.0)
    assert answer is not None
    assert answer[3] & 15 == dns.rcode.NOTIMP
    assert answer[2] >> 3 & 15 == opcode


def test_malformed_questions(gateway: Gateway) -> None:
    good = ask(use_edns=0)
    header, name = good[:12], good[12:25]
    opt = good[-11:]
    assert name.endswith(b"com\0")

    def counts(*numbers: int) -> bytes:
        return header[:4] + b"".join(n.to_bytes(2, "big") for n in numbers)

    for bad in (
        counts(0, 0, 0, 0),
        counts(2, 0, 0, 0) + (name + b"\0\1\0\1") * 2,
        counts(1, 1, 0, 0) + good[12:],
        counts(1, 0, 1, 0) + good[12:],
        counts(1, 0, 0, 9) + good[12:],
        counts(1, 0, 0, 0) + name,
        counts(1, 0, 0, 0) + name[:-1],
        counts(1, 0, 0, 0) + b"\xc0\x0c\0\1\0\1",
        counts(1, 0, 0, 0) + b"\x40" + name + b"\0\1\0\1",
        counts(1, 0, 0, 0) + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
        counts(1, 0, 0, 0) + good[12:],  # an OPT nobody counted
        counts(1, 0, 0, 1) + good[12:-11],
        counts(1, 0, 0, 1) + good[12:-3],
        counts(1, 0, 0, 2) + good[12:] + opt,
        counts(1, 0, 0, 1) + good[12:-11] + b"\1a" + opt,
        good[:-1] + b"\5",
        good + b"trailing",
    ):
        answer = gateway.server.receive(bad, "c", 0.0)
        assert answer is not None
        assert (answer[:2], answer[3] & 15) == (bad[:2], dns.rcode.FORMERR)
    for silent in (b"", good[:11], good[:2] + b"\x81" + good[3:]):
        assert gateway.server.receive(silent, "c", 0.0) is None
    assert gateway.server.upstream_queries() == []


def test_a_signature_on_the_question_does_no_harm(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    query = dns.message.make_query("example.com", "A", use_edns=False)
    query.additional.append(records("sig.example.", 0, "TXT", "x"))
    assert gateway.asks(query.to_wire()).answer


def test_the_longest_name(gateway: Gateway) -> None:
    label = "a" * 63
    name = f"{label}.{label}.{label}.{'b' * 61}"
    upstream = gateway.waits(ask(name))
    assert upstream.name == name
    assert gateway.told(upstream, respond(upstream, records(name + ".", 9, "A", "1.2.3.4"))).answer


# --- local names ----------------------------------------------------------------------------


def packed(text: str) -> bytes:
    return ip_address(text).packed


@pytest.fixture
def home() -> Gateway:
    gateway = Gateway()
    gateway.server.set_local_names(
        {
            "lamp": (packed("10.90.0.7"), packed("fd7a:115c:a1e0:9909::7")),
            "Six": (None, packed("fd7a:115c:a1e0:9909::6")),
            "a.b": (packed("10.90.1.9"), None),
        }
    )
    return gateway


RANGE_6 = "9.0.9.9.0.e.1.a.c.5.1.1.a.7.d.f.ip6.arpa"


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("gateway.lopower.internal", "A", ["10.90.0.1"]),
        ("gateway.lopower.internal", "AAAA", ["fd7a:115c:a1e0:9909::1"]),
        ("LAMP.LoPower.internal", "A", ["10.90.0.7"]),
        ("lamp.lopower.internal", "AAAA", ["fd7a:115c:a1e0:9909::7"]),
        ("six.lopower.internal", "AAAA", ["fd7a:115c:a1e0:9909::6"]),
        ("six.lopower.internal", "A", []),
        ("lamp.lopower.internal", "TXT", []),
        ("b.lopower.internal", "A", []),
        ("a.b.lopower.internal", "A", ["10.90.1.9"]),
        ("lopower.internal", "A", []),
        ("lopower.internal", "NS", ["gateway.lopower.internal."]),
        ("7.0.90.10.in-addr.arpa", "PTR", ["lamp.lopower.internal."]),
        ("1.0.90.10.in-addr.arpa", "PTR", ["gateway.lopower.internal."]),
        ("0.90.10.in-addr.arpa", "PTR", []),
        ("90.10.in-addr.arpa", "NS", ["gateway.lopower.internal."]),
        (
            f"7.{'0.' * 15}{RANGE_6}",
            "PTR",
            ["lamp.lopower.internal."],
        ),
        ("localhost", "A", ["127.0.0.1"]),
        ("foo.localhost", "AAAA", ["::1"]),
        ("localhost", "TXT", []),
    ],
)
def test_local_names(home: Gateway, name: str, kind: str, expected: list[str]) -> None:
    for _ in range(2):  # the second time it is a variant
        answer = home.asks(ask(name, kind))
        assert answer.rcode() == dns.rcode.NOERROR
        assert [rdata.to_text() for rrset in answer.answer for rdata in rrset] == expected
        assert bool(answer.authority) is not bool(expected)
        assert answer.flags & dns.flags.AA


@pytest.mark.parametrize(
    "name",
    [
        "nobody.lopower.internal",
        "x.lamp.lopower.internal",
        "9.9.90.10.in-addr.arpa",
        "printer.local",
        "local",
        "x.onion",
        "x.invalid",
        "_dns.resolver.arpa",
        "use-application-dns.net",
        "1.0.0.127.in-addr.arpa",
        "254.169.254.169.in-addr.arpa",
    ],
)
def test_names_that_do_not_exist_here(home: Gateway, name: str) -> None:
    for _ in range(2):
        answer = home.asks(ask(name))
        assert answer.rcode() == dns.rcode.NXDOMAIN
        (soa,) = answer.authority
        assert name.endswith(soa.name.to_text().rstrip("."))
        assert soa.ttl == soa[0].minimum == 60


def test_private_reverse_names_stay_here_if_upstream_is_public() -> None:
    name = "1.1.168.192.in-addr.arpa"
    Gateway().waits(ask(name, "PTR"))
    assert Gateway(private_reverse=True).asks(ask(name, "PTR")).rcode() == dns.rcode.NXDOMAIN
    Gateway(private_reverse=True).waits(ask("1.64.100.in-addr.arpa", "PTR"))


def test_names_change(home: Gateway) -> None:
    assert home.asks(ask("lamp.lopower.internal")).answer
    home.server.set_local_names({"lamp": (packed("10.90.0.8"), None)})
    assert texts(home.asks(ask("lamp.lopower.internal"))) == [
        "lamp.lopower.internal. 60 IN A 10.90.0.8"
    ]
    assert home.asks(ask("six.lopower.internal")).rcode() == dns.rcode.NXDOMAIN
    assert home.asks(ask("7.0.90.10.in-addr.arpa", "PTR")).rcode() == dns.rcode.NXDOMAIN
    with pytest.raises(ValueError, match="is not a DNS name"):
        home.server.set_local_names({"living room": (None, None)})
    assert home.asks(ask("lamp.lopower.internal")).answer


def test_another_zone_and_ranges() -> None:
    from ipaddress import ip_network

    gateway = Gateway(
        zone="Lo.Example.",
        gateway=(packed("172.20.4.1"), None),
        networks=(ip_network("172.20.0.0/20"),),
    )
    assert gateway.asks(ask("gateway.lo.example")).answer
    assert gateway.asks(ask("1.4.20.172.in-addr.arpa", "PTR")).answer
    assert gateway.asks(ask("1.15.20.172.in-addr.arpa", "PTR")).rcode() == dns.rcode.NXDOMAIN
    gateway.waits(ask("1.16.20.172.in-addr.arpa", "PTR"))


# --- filter, views, hook --------------------------------------------------------------------


def test_a_records_are_left_out_where_ipv4_is_off(gateway: Gateway) -> None:
    gateway.knows(ADDRESS)
    gateway.server.set_filter(["ts.net", "example.com"])
    upstream = gateway.waits(ask())
    assert gateway.told(upstream, respond(upstream, ADDRESS)).answer == []
    assert gateway.asks(ask(), 59.0).answer == []
    six = records("example.com.", 300, "AAAA", "2001:db8::1")
    gateway.knows(six)
    assert texts(gateway.asks(ask(kind="AAAA"))) == [six.to_text()]
    gateway.knows(records("examples.com.", 300, "A", "192.0.2.1"))
    assert gateway.asks(ask("examples.com")).answer


def test_a_filtered_name_behind_a_cname(gateway: Gateway) -> None:
    gateway.server.set_filter(["ts.net"])
    upstream = gateway.waits(ask("nas.example"))
    chain = (
        records("nas.example.", 100, "CNAME", "nas.ts.net."),
        records("nas.ts.net.", 100, "A", "100.64.0.1"),
    )
    assert len(gateway.told(upstream, respond(upstream, *chain)).answer) == 1


def test_views_see_other_addresses(gateway: Gateway) -> None:
    seen = []

    def translate(view: Hashable, address: bytes) -> bytes | None:
        seen.append(view)
        return {b"\xc0\0\2\1": packed("10.90.128.1"), b"\xc0\0\2\2": None}.get(address, address)

    gateway.server.set_translation(translate)
    gateway.knows(ADDRESS)
    assert not seen
    upstream = gateway.waits(ask(), view="alias")
    told = gateway.told(upstream, respond(upstream, ADDRESS))
    assert texts(told) == ["example.com. 300 IN A 10.90.128.1"]
    for _ in range(2):
        assert texts(gateway.asks(ask(), view="alias")) == texts(told)
        assert len(gateway.asks(ask()).answer[0]) == 2
    upstream = gateway.waits(ask("none.example"), view="alias")
    only = records("none.example.", 300, "A", "192.0.2.2")
    assert gateway.told(upstream, respond(upstream, only)).answer == []


def test_the_hook_answers_forwards_or_lets_pass(gateway: Gateway) -> None:
    asked = []

    def hook(name: str, rdtype: int, view: Hashable) -> Answer | Forward | None:
        asked.append((name, rdtype, view))
        if name == "nas.ts.net":
            return Answer.addresses([packed("100.64.0.1"), packed("fd7a::1")], rdtype)
        if name == "gone.ts.net":
            return Answer(rcode=3)
        return Forward("tailnet") if name.endswith("ts.net") else None

    gateway.server.set_hook(hook)
    for _ in range(2):
        assert texts(gateway.asks(ask("NAS.ts.net"))) == ["NAS.ts.net. 60 IN A 100.64.0.1"]
    assert asked == [("nas.ts.net", 1, None)]
    assert texts(gateway.asks(ask("nas.ts.net", "AAAA"))) == ["nas.ts.net. 60 IN AAAA fd7a::1"]
    assert gateway.asks(ask("nas.ts.net", "TXT")).answer == []
    assert gateway.asks(ask("gone.ts.net")).rcode() == dns.rcode.NXDOMAIN
    assert gateway.waits(ask("other.ts.net")).to == "tailnet"
    assert gateway.waits(ask("example.com")).to == ""
    assert gateway.asks(ask("x.local")).rcode() == dns.rcode.NXDOMAIN
    gateway.server.flush()
    gateway.asks(ask("nas.ts.net"))
    assert asked.count(("nas.ts.net", 1, None)) == 2


# --- bounds ---------------------------------------------------------------------------------


def test_the_cache_is_bounded_and_drops_what_is_used_least() -> None:
    gateway = Gateway(limits=Limits(entries=3, variants=2))
    for n in range(3):
        gateway.knows(records(f"{n}.example.", 300, "A", "192.0.2.1"))
    gateway.asks(ask("0.example"))
    gateway.knows(records("3.example.", 300, "A", "192.0.2.1"))
    assert len(gateway.server._cache) == 3
    for n in (0, 2, 3):
        assert gateway.asks(ask(f"{n}.example")).answer
    assert len(gateway.server._variants) == 2
    gateway.waits(ask("1.example"))


def test_the_cache_is_bounded_in_bytes() -> None:
    gateway = Gateway(limits=Limits(cache_bytes=5000))
    for n in range(50):
        gateway.knows(records(f"{n}.example.", 300, "TXT", '"' + "x" * 200 + '"'))
    assert gateway.server._cache.size <= 5000
    assert 2 <= len(gateway.server._cache) <= 6
    gateway.knows(records("49.example.", 300, "A", "192.0.2.1"))
    gateway.server.flush()
    assert (gateway.server._cache.size, len(gateway.server._cache)) == (0, 0)


# --- loops ----------------------------------------------------------------------------------


def test_a_forwarding_loop_ends_and_is_seen(gateway: Gateway) -> None:
    upstream = gateway.waits(ask())
    assert gateway.server.receive(upstream.wire, "upstream", 0.1) is None
    assert gateway.server.upstream_queries() == []  # it is not sent again
    probe = gateway.server.probe("k3j2h1")
    assert not gateway.server.loop_detected
    assert gateway.asks(probe.wire, client="upstream").rcode() == dns.rcode.REFUSED
    assert gateway.server.loop_detected


# --- properties -----------------------------------------------------------------------------


queries = st.builds(
    lambda head, tail: head + tail,
    st.sampled_from([b"", ask()[:12], ask(), ask(use_edns=0), ask("lamp.lopower.internal")]),
    st.binary(max_size=80),
) | st.builds(
    lambda wire, at, byte: wire[: at % len(wire)] + bytes((byte,)) + wire[at % len(wire) + 1 :],
    st.sampled_from([ask(), ask(use_edns=0), ask("lamp.lopower.internal", "PTR")]),
    st.integers(0, 200),
    st.integers(0, 255),
)


@given(st.lists(queries, max_size=4), st.lists(st.binary(max_size=60), max_size=3), st.booleans())
def test_no_bytes_raise_and_every_answer_can_be_read(
    asked: list[bytes], answers: list[bytes], stream: bool
) -> None:
    server = Server()
    for query in asked:
        wire = server.receive(query, "c", 0.0, stream=stream)
        if wire is not None:
            assert wire[:2] == query[:2]
            dns.message.from_wire(wire)
    for upstream in server.upstream_queries():
        dns.message.from_wire(upstream.wire)
        for answer in answers:
            server.receive_upstream(upstream.id, upstream.wire[:12] + answer, 0.0)
    for _, wire in server.answers():
        dns.message.from_wire(wire)


ttls = st.integers(1, 500)
addresses = st.builds(
    lambda first, count: [f"192.0.2.{first + n}" for n in range(count)],
    st.integers(0, 160),
    st.integers(1, 90),
)


@settings(max_examples=60)
@given(addresses, ttls, st.floats(0, 600), st.sampled_from([0, 512, 900, 4096]), st.booleans())
def test_a_cached_answer_equals_one_just_made(
    values: list[str], ttl: int, now: float, size: int, stream: bool
) -> None:
    """A variant, an answer from the cache, and what dnspython builds from the records."""
    gateway = Gateway()
    gateway.knows(records("example.com.", ttl, "A", *values))
    query = ask(use_edns=False) if not size else ask(payload=size)
    first = gateway.server.receive(query, "c", now, stream=stream)
    second = gateway.server.receive(query, "c", now, stream=stream)
    if now >= ttl:
        assert first is None
        return
    gateway.server._forget_variants()
    assert first == second == gateway.server.receive(query, "c", now, stream=stream)
    expected = dns.message.make_response(dns.message.from_wire(query), True, our_payload=1232)
    expected.answer = [records("example.com.", ttl - int(now), "A", *values)]
    got = parsed(first)
    wire = expected.to_wire(max_size=65535, want_shuffle=False)
    if stream or len(wire) <= min(max(size, 512), 1232):
        assert first == wire
    else:
        assert got.flags & dns.flags.TC
        assert got.answer == []
