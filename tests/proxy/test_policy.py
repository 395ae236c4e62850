"""The policy: every spelling of every address that must not be dialled, and what rules open."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.proxy.policy import (
    MAX_PINS,
    MAX_VERDICTS,
    PIN_GRACE,
    PIN_RETRY,
    Context,
    Policy,
    Protocol,
    Refusals,
    Rule,
    Verdict,
    parse_rules,
    routes,
)

TAILNET = parse_rules(["100.64.0.0/10", "fd7a:115c:a1e0::/48"])
HOST = Context(
    services=frozenset({(8123, "tcp"), (1883, "tcp")}),
    host_addresses=(
        packed_host := ip_address("192.168.1.2").packed,
        ip_address("100.64.0.9").packed,
    ),
    host_networks=(ip_network("192.168.1.0/24"), ip_network("2001:db8:1::/64")),
)
NODE = Context(
    services=HOST.services,
    host_addresses=HOST.host_addresses,
    host_networks=HOST.host_networks,
    reach=TAILNET,
)


def packed(text: str) -> bytes:
    return ip_address(text).packed


def check(
    rules: str, destination: str, port: int = 80, protocol: Protocol = "tcp", ctx: Context = HOST
) -> Verdict:
    return Policy(parse_rules(rules.split()), ctx).check(packed(destination), port, protocol)


def spellings(text: str) -> list[str]:
    """An IPv4 address in every IPv6 form that something may translate back."""
    high, low = divmod(int(IPv4Address(text)), 1 << 16)
    four, inverted = f"{high:x}:{low:x}", f"{high ^ 0xFFFF:x}:{low ^ 0xFFFF:x}"
    byte = [f"{b:02x}" for b in IPv4Address(text).packed]
    return [
        f"::ffff:{four}",
        f"::ffff:0:{four}",
        f"2002:{four}::1",
        f"64:ff9b::{four}",
        f"64:ff9b:1::{four}",
        f"64:ff9b:1:{byte[0]}:{byte[1]}{byte[2]}:{byte[3]}00::",  # a /56, as RFC 6052 lays it out
        f"2001:0:102:304::{inverted}",
        f"2001:0:{four}::fefd:fcfb",
        f"2001:db8:9::5efe:{four}",
        f"2001:db8:9:0:200:5efe:{four}",
    ]


RESERVED = [
    "0.0.0.0", "0.1.2.3", "127.0.0.1", "127.255.255.254", "169.254.1.1", "169.254.169.254",
    "224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255", "100.100.100.100",
    "192.168.1.2", "192.168.1.77", "192.168.1.255", "100.64.0.9", "10.90.0.2", "10.90.255.255",
]  # fmt: skip
RESERVED_6 = [
    "::", "::1", "fe80::1", "fec0::1", "ff02::1", "ff0e::fb", "fd7a:115c:a1e0::53",
    "2001:db8:1::77", "fd7a:115c:a1e0:9909::2", "::127.0.0.1", "::10.90.0.1", "::2",
]  # fmt: skip


@pytest.mark.parametrize("destination", RESERVED)
def test_a_broad_rule_never_includes_what_is_reserved(destination: str) -> None:
    assert not check("0.0.0.0/0 ::/0", destination).allowed
    assert not check("", destination, ctx=NODE).allowed


@pytest.mark.parametrize("destination", RESERVED)
def test_no_spelling_of_a_reserved_address_is_reached(destination: str) -> None:
    for spelling in spellings(destination):
        verdict = check("0.0.0.0/0 ::/0", spelling)
        assert not verdict.allowed, spelling


@pytest.mark.parametrize("destination", RESERVED_6)
def test_a_broad_rule_never_includes_reserved_ipv6(destination: str) -> None:
    assert not check("0.0.0.0/0 ::/0", destination).allowed
    assert not check("", destination, ctx=NODE).allowed


@pytest.mark.parametrize(
    ("rule", "destination", "allowed"),
    [
        ("127.0.0.1", "127.0.0.1", True),
        ("127.0.0.0/8", "127.0.0.53", True),
        ("127.0.0.1:80/tcp", "127.0.0.1", True),
        ("127.0.0.1:81/tcp", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", False),
        ("126.0.0.0/7", "127.0.0.1", False),
        ("127.0.0.1", "::ffff:127.0.0.1", True),
        ("::ffff:127.0.0.1", "127.0.0.1", True),
        ("::1", "::1", True),
        ("::/127", "::1", False),
        ("0.0.0.0", "0.0.0.0", False),
        ("0.0.0.0/8", "0.0.0.0", False),
        ("::", "::", False),
        ("224.0.0.0/4", "224.0.0.251", False),
        ("255.255.255.255", "255.255.255.255", False),
        ("169.254.169.254", "169.254.169.254", True),
        ("169.254.0.0/16", "169.254.3.4", True),
        ("169.0.0.0/8", "169.254.3.4", False),
        ("192.168.1.2", "192.168.1.2", True),
        ("192.168.1.0/24", "192.168.1.2", False),
        ("192.168.1.0/24", "192.168.1.3", True),
        ("192.168.0.0/16", "192.168.1.3", True),
        ("0.0.0.0/0", "192.168.1.3", False),
        ("192.168.1.0/24", "192.168.1.255", False),
        ("10.90.0.3", "10.90.0.3", True),
        ("10.90.0.0/16", "10.90.0.3", True),
        ("10.0.0.0/8", "10.90.0.3", False),
        ("10.0.0.0/8", "10.91.0.3", True),
        ("100.64.0.0/10", "100.64.0.9", False),
        ("100.64.0.9", "100.64.0.9", True),
        ("100.100.100.100", "100.100.100.100", True),
        ("fd7a:115c:a1e0::/48", "fd7a:115c:a1e0::7", True),
        ("fd7a:115c:a1e0::/48", "fd7a:115c:a1e0:9909::7", False),
        ("0.0.0.0/0", "8.8.8.8", True),
        ("0.0.0.0/0", "2001:4860::1", False),
        ("::/0", "2001:4860::1", True),
        ("::/0", "8.8.8.8", False),
        ("::/0", "::ffff:8.8.8.8", False),
        ("::/0", "2002:808:808::1", True),
        ("2002::/16", "2002:808:808::1", True),
        ("8.8.8.8", "64:ff9b::8.8.8.8", True),
        ("0.0.0.0/0 2001:db8:1::/64", "2001:db8:1:0:0:5efe:808:808", True),
        ("0.0.0.0/0", "2001:db8:1:0:0:5efe:808:808", False),
        ("10.90.0.0/16", "::ffff:10.90.0.1", False),
    ],
)
def test_rules_open(rule: str, destination: str, allowed: bool) -> None:
    assert check(rule, destination).allowed is allowed


@given(st.binary(min_size=16, max_size=16), st.sampled_from(["::/0", "0.0.0.0/0 ::/0"]))
def test_ipv6_that_the_standard_library_reads_as_reserved_ipv4(address: bytes, rules: str) -> None:
    text = IPv6Address(address)
    found = [text.ipv4_mapped, text.sixtofour, *(text.teredo or ())]
    if any(four is not None and (four.is_loopback or four.is_multicast) for four in found):
        assert not check(rules, str(text)).allowed


@pytest.mark.parametrize(
    ("port", "protocol", "allowed"),
    [
        (53, "udp", True),
        (53, "tcp", True),
        (0, "icmp", True),
        (8123, "tcp", True),
        (8123, "udp", False),
        (1883, "tcp", True),
        (22, "tcp", False),
    ],
)
@pytest.mark.parametrize("gateway", ["10.90.0.1", "fd7a:115c:a1e0:9909::1"])
def test_the_gateway_serves_what_it_serves(
    gateway: str, port: int, protocol: Protocol, allowed: bool
) -> None:
    for rules in ("", "10.90.0.1", "0.0.0.0/0"):
        assert check(rules, gateway, port, protocol).allowed is allowed


def test_the_default_reach() -> None:
    assert check("", "100.80.1.1", ctx=NODE).allowed
    assert check("", "fd7a:115c:a1e0::abcd", ctx=NODE).allowed
    assert not check("", "8.8.8.8", ctx=NODE).allowed
    assert not check("", "100.80.1.1").allowed  # the host's own network: nothing by default
    assert Policy(None, NODE).check(packed("100.80.1.1"), 1, "udp").allowed


def test_rules_replace_the_default_reach_unless_they_include_it() -> None:
    assert not check("8.8.8.8", "100.80.1.1", ctx=NODE).allowed
    assert check("8.8.8.8 @default", "100.80.1.1", ctx=NODE).allowed
    assert not check("@gateway", "100.80.1.1", ctx=NODE).allowed
    assert check("@gateway", "10.90.0.1", 53, "udp", NODE).allowed


@pytest.mark.parametrize(
    ("rule", "port", "protocol", "allowed"),
    [
        ("8.8.8.8", 0, "icmp", True),
        ("8.8.8.8/tcp", 0, "icmp", False),
        ("8.8.8.8:1-65535", 0, "icmp", False),
        ("8.8.8.8:53/udp", 53, "udp", True),
        ("8.8.8.8:53/udp", 53, "tcp", False),
        ("8.8.8.8:53", 53, "tcp", True),
        ("8.8.8.8:50-60", 60, "tcp", True),
        ("8.8.8.8:50-60", 61, "tcp", False),
    ],
)
def test_ports_and_protocols(rule: str, port: int, protocol: Protocol, allowed: bool) -> None:
    assert check(rule, "8.8.8.8", port, protocol).allowed is allowed


def test_reasons_say_why() -> None:
    assert check("", "127.0.0.1").reason == "the loopback of the gateway's machine"
    assert check("", "8.8.8.8").reason == "not on the allow list"
    assert check("8.8.8.8:80/tcp", "8.8.8.8").reason == "allowed by 8.8.8.8:80/tcp"
    assert Policy(None, HOST).check(b"abc", 80, "tcp") == (False, "not an IP address")


# --- names ----------------------------------------------------------------------------------


def named(rule: str, *addresses: str, ctx: Context = HOST, ttl: float = 300) -> Policy:
    policy = Policy(parse_rules([rule]), ctx)
    policy.pin(Rule.parse(rule).host, map(packed, addresses), ttl, 0.0)
    return policy


@pytest.mark.parametrize("destination", [*RESERVED, *RESERVED_6])
def test_rebinding_a_name_opens_nothing_reserved(destination: str) -> None:
    policy = named("evil.example.com", destination, "93.184.216.34")
    verdict = policy.check(packed(destination), 80, "tcp")
    assert not verdict.allowed
    assert policy.check(packed("93.184.216.34"), 80, "tcp").allowed
    for spelling in spellings(destination) if "." in destination[:4] else ():
        assert not named("evil.example.com", spelling).check(packed(spelling), 80, "tcp").allowed


@pytest.mark.parametrize(
    ("name", "destination", "ctx", "allowed"),
    [
        ("printer.lan", "192.168.1.50", HOST, True),
        ("printer", "192.168.1.50", HOST, True),
        ("printer.lan", "127.0.0.1", HOST, False),
        ("printer.lan", "192.168.1.2", HOST, False),
        ("printer.lan", "10.90.0.7", HOST, False),
        ("printer.example.com", "192.168.1.50", HOST, False),
        ("printer.example.com", "192.168.7.50", HOST, False),
        ("printer.example.com", "fd12::5", HOST, False),
        ("printer.lan", "192.168.7.50", HOST, True),
        ("nas.tail1.ts.net", "100.80.1.1", HOST, True),
        ("nas.tail1.ts.net", "fd7a:115c:a1e0::5", NODE, True),
        ("nas.tail1.ts.net", "fd7a:115c:a1e0::5", HOST, False),
        ("lamp.lopower.internal", "10.90.0.7", HOST, True),
        ("lamp.example.com", "10.90.0.7", HOST, False),
    ],
)
def test_what_a_name_may_stand_for(
    name: str, destination: str, ctx: Context, allowed: bool
) -> None:
    verdict = named(name, destination, ctx=ctx).check(packed(destination), 80, "tcp")
    assert verdict.allowed is allowed
    if not allowed:
        assert name in verdict.reason


def test_a_mapped_answer_is_pinned_as_ipv4() -> None:
    assert (
        named("a.example", "::ffff:93.184.216.34").check(packed("93.184.216.34"), 1, "udp").allowed
    )


def test_names_are_asked_for_and_asked_for_again() -> None:
    policy = Policy(parse_rules(["a.example", "b.example:80", "8.8.8.8"]), HOST)
    assert policy.deadline() == 0.0
    assert policy.names_due(10.0) == ["a.example", "b.example"]
    assert policy.names_due(11.0) == []
    assert policy.deadline() == 10.0 + PIN_RETRY
    policy.pin("A.example.", [packed("1.2.3.4")], 100, 12.0)
    assert policy.names_due(41.0) == ["b.example"]
    assert policy.names_due(112.0) == ["a.example", "b.example"]
    assert Policy(None, HOST).deadline() is None


def test_pins_change_the_verdict_and_run_out() -> None:
    policy = Policy(parse_rules(["a.example"]), HOST)
    one, two = packed("1.2.3.4"), packed("5.6.7.8")
    assert not policy.check(one, 80, "tcp").allowed
    policy.pin("a.example", [one], 60, 0.0)
    assert policy.check(one, 80, "tcp").allowed
    policy.pin("a.example", [two], 60, 50.0)
    assert policy.check(one, 80, "tcp").allowed
    policy.names_due(60 + PIN_GRACE)
    assert not policy.check(one, 80, "tcp").allowed
    assert policy.check(two, 80, "tcp").allowed
    policy.pin("other.example", [one], 60, 0.0)
    assert policy.pins == {"a.example": (two,)}


def test_pins_are_bounded_and_kept_when_rules_change() -> None:
    policy = Policy(parse_rules(["a.example"]), HOST)
    policy.pin("a.example", [bytes([5, 5, 5, n]) for n in range(MAX_PINS + 9)], 60, 0.0)
    assert len(policy.pins["a.example"]) == MAX_PINS
    policy.set_rules(parse_rules(["a.example:80", "b.example"]))
    assert len(policy.pins["a.example"]) == MAX_PINS
    assert policy.pins["b.example"] == ()


# --- cache, routes, refusals ----------------------------------------------------------------


def test_verdicts_are_cached_bounded_and_forgotten() -> None:
    policy = Policy(parse_rules(["8.8.8.8"]), HOST)
    first = policy.check(packed("8.8.8.8"), 80, "tcp")
    assert policy.check(packed("8.8.8.8"), 80, "tcp") is first
    for port in range(MAX_VERDICTS + 10):
        policy.check(packed("8.8.4.4"), port, "tcp")
    assert len(policy._verdicts) == MAX_VERDICTS
    policy.set_rules(parse_rules(["8.8.4.4"]))
    assert not policy.check(packed("8.8.8.8"), 80, "tcp").allowed
    policy.set_context(NODE)
    assert policy.context is NODE
    assert policy.rules == TAILNET
    assert policy.check(packed("100.64.0.1"), 80, "tcp").allowed


def test_routes() -> None:
    assert list(map(str, routes(None, NODE))) == [
        "10.90.0.0/16",
        "100.64.0.0/10",
        "fd7a:115c:a1e0::/48",
    ]
    rules = parse_rules(["192.168.7.0/25", "192.168.7.128/25:80", "a.example", "b.example"])
    found = routes(rules, HOST, {"a.example": [packed("1.2.3.4"), packed("2001:db8::1")]})
    assert set(map(str, found)) == {
        "10.90.0.0/16",
        "192.168.7.0/24",
        "1.2.3.4/32",
        "fd7a:115c:a1e0:9909::/64",
        "2001:db8::1/128",
    }


def test_refusals_are_counted_and_bounded() -> None:
    refusals = Refusals(limit=3)
    for port in (1, 2, 3, 1, 4):
        refusals.add(b"\1\2\3\4", port, "tcp", "why", float(port))
    assert [(entry.port, entry.count) for entry in refusals] == [(4, 1), (1, 2), (3, 1)]
    assert (len(refusals), refusals.total) == (3, 5)
    assert not refusals.add(b"\1\2\3\4", 4, "tcp", "other", 9.0)
    assert next(iter(refusals)).reason == "other"
    assert next(iter(refusals)).last == 9.0
    refusals.clear()
    assert (len(refusals), refusals.total) == (0, 0)
