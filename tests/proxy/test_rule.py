"""The text form of a rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.proxy.policy import Rule, RuleError, parse_rules
from lopower.proxy.rule import MAX_RULES


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("10.72.0.0/16", "10.72.0.0/16"),
        (" Printer.LAN.:631/TCP ", "printer.lan:631/tcp"),
        ("[fd00::5]:80/tcp", "[fd00::5]:80/tcp"),
        ("[fd00::5]", "fd00::5"),
        ("[fd00::/8]:80-90", "[fd00::/8]:80-90"),
        ("[fd00::]/8:80", "[fd00::/8]:80"),
        ("fd00::/8", "fd00::/8"),
        ("FD00:0:0::5/tcp", "fd00::5/tcp"),
        ("10.0.0.1/32", "10.0.0.1"),
        ("10.0.0.1:80-80", "10.0.0.1:80"),
        ("10.0.0.0/8/udp", "10.0.0.0/8/udp"),
        ("10.0.0.0/8:53/udp", "10.0.0.0/8:53/udp"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("::/0", "::/0"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("::ffff:10.0.0.0/104", "10.0.0.0/8"),
        ("bücher.example:443", "xn--bcher-kva.example:443"),
        ("_http._tcp.example", "_http._tcp.example"),
        ("@default", "@default"),
        ("@gateway", "@gateway"),
    ],
)
def test_canonical_form(text: str, canonical: str) -> None:
    rule = Rule.parse(text)
    assert str(rule) == canonical
    assert Rule.parse(canonical) == rule


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("a" * 400, "characters long"),
        ("*", "Wildcards"),
        ("*.example.com", "Wildcards"),
        ("10.0.0.1/8", r"write 10\.0\.0\.0/8"),
        ("fd00::1/8", r"write fd00::/8"),
        ("10.0.0.0/255.0.0.0", "with its length: 10.0.0.0/8"),
        ("10.0.0.0/33", "not an IPv4 or IPv6 prefix"),
        ("10.0.0.256", "not an IPv4 or IPv6 address"),
        ("127.1", "not an IPv4 or IPv6 address"),
        ("2130706433", "not an IPv4 or IPv6 address"),
        ("0x7f.0x1", "not an IPv4 or IPv6 address"),
        ("010.0.0.1", "not an IPv4 or IPv6 address"),
        ("fe80::1%eth0", "zone"),
        ("fd00::/8:80", "brackets"),
        ("[fd00::1", "not closed"),
        ("[fd00::1]80", "colon and a port"),
        ("[1.2.3.4]:80", "IPv6 addresses only"),
        ("1.2.3.4:0", "not a port"),
        ("1.2.3.4:65536", "not a port"),
        ("1.2.3.4:", "not a port"),
        ("1.2.3.4:80-", "not a port"),
        ("1.2.3.4:٣", "not a port"),
        ("1.2.3.4:http", "not a port"),
        ("1.2.3.4:90-80", "wrong way round"),
        ("1.2.3.4/icmp", "not a protocol"),
        ("http://nas/", "not a protocol"),
        (":80", "starts with"),
        ("localhost:80", "write 127.0.0.1"),
        ("foo.localhost", "write 127.0.0.1"),
        ("-a.example", "neither"),
        ("a..example", "neither"),
        ("ä" * 70, "not a name DNS can carry"),
        ("a b", "neither"),
        ("@other", "neither"),
    ],
)
def test_mistakes_are_named_in_one_sentence(text: str, message: str) -> None:
    with pytest.raises(RuleError, match=message) as caught:
        Rule.parse(text)
    assert str(caught.value).endswith(".")


@given(st.text(st.sampled_from("0123456789abcdef.:/[]-@%* tcpudpé"), max_size=40) | st.text())
def test_parsing_raises_nothing_else_and_round_trips(text: str) -> None:
    try:
        rule = Rule.parse(text)
    except RuleError:
        return
    assert Rule.parse(str(rule)) == rule


def test_a_list_names_the_rule_at_fault() -> None:
    assert parse_rules(["10.0.0.1", "10.0.0.1/32"]) == (Rule.parse("10.0.0.1"),)
    with pytest.raises(RuleError, match=r"^'bad name': "):
        parse_rules(["10.0.0.1", "bad name"])
    with pytest.raises(RuleError, match="at most 256"):
        parse_rules(f"10.0.{n // 256}.{n % 256}" for n in range(MAX_RULES + 1))
