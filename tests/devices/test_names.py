"""Names, keys, addresses, endpoints: what users type."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from ipaddress import IPv4Network, ip_address
from typing import TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.devices import hosts, keys, names
from lopower.devices.addresses import AddressPlan
from lopower.devices.errors import UserError
from lopower.devices.hosts import HostPort, parse_host_port

T = TypeVar("T")
LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")


def outcome(parse: Callable[[], T]) -> T | None:
    """What was read, or None when it was refused in one printable sentence."""
    try:
        return parse()
    except UserError as error:
        refusal = str(error)
    assert refusal.isprintable()
    return None


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("lamp", "lamp"),
        ("Living Room", "living-room"),
        ("  Küche_2 ", "kuche-2"),
        ("a", "a"),
        ("9", "9"),
        ("x" * 63, "x" * 63),
    ],
)
def test_names(text: str, name: str) -> None:
    assert names.parse(text) == name


@pytest.mark.parametrize(
    "text",
    ["", " ", "-a", "a-", "a.b", "a/b", "日本", "x" * 64, "gateway", "a\nb;", "\x00", "LocalHost"],
)
def test_names_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError) as refused:
        names.parse(text)
    assert str(refused.value).endswith(".")
    assert str(refused.value).isprintable()


@given(st.text(max_size=80))
def test_every_name_is_a_dns_label_or_refused(text: str) -> None:
    name = outcome(lambda: names.parse(text))
    if name is not None:
        assert LABEL.fullmatch(name)
        assert names.parse(name) == name


@given(st.binary(min_size=32, max_size=32))
def test_keys_are_read_as_they_are_written(key: bytes) -> None:
    text = keys.encode(key)
    assert len(text) == 44
    assert keys.decode(text) == key


@given(st.text(max_size=50))
def test_only_canonical_keys_are_read(text: str) -> None:
    try:
        key = keys.decode(text)
    except ValueError:
        return
    assert keys.encode(key) == text


def test_a_public_key_must_be_usable() -> None:
    good = keys.generate().public
    assert keys.parse_public(f" {keys.encode(good)}\n") == good
    one = (1).to_bytes(32, "little")
    prime = (2**255 - 19).to_bytes(32, "little")
    order8 = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")
    for weak in (bytes(32), one, prime, order8):
        with pytest.raises(UserError, match="weak"):
            keys.parse_public(keys.encode(weak))


@pytest.mark.parametrize(
    "text", ["", "abc", "A" * 44, "A" * 43 + "é", "!" * 43 + "=", "A" * 42 + "B="]
)
def test_text_that_is_no_key(text: str) -> None:
    with pytest.raises(UserError, match="not a WireGuard public key"):
        keys.parse_public(text)


def test_the_default_plan() -> None:
    plan = AddressPlan.parse()
    assert str(plan.gateway4) == "10.90.0.1"
    assert str(plan.gateway6) == "fd7a:115c:a1e0:9909::1"
    assert plan.alias_range == IPv4Network("10.90.128.0/17")
    assert plan.allocate(()) == 2
    assert plan.allocate({2, 3, 5}) == 4
    assert ip_address(plan.addresses(plan.last_device)[0]) not in plan.alias_range


@given(
    st.integers(0, 2**24 - 1), st.integers(8, 28), st.integers(32, 104), st.integers(0, 2**32 - 1)
)
def test_any_plan_holds_its_devices(low: int, bits4: int, bits6: int, number: int) -> None:
    base = (10 << 24 | low) >> (32 - bits4) << (32 - bits4)
    plan = AddressPlan.parse(f"{ip_address(base)}/{bits4}", f"fd00::/{bits6}")
    device = 2 + number % (plan.last_device - 1)
    four, six = map(ip_address, plan.addresses(device))
    assert four in plan.ipv4
    assert four not in plan.alias_range
    assert four != plan.gateway4
    assert six in plan.ipv6


@pytest.mark.parametrize(
    ("ipv4", "ipv6"),
    [
        ("10.90.0.1/16", "fd00::/64"),
        ("8.8.0.0/16", "fd00::/64"),
        ("100.100.0.0/16", "fd00::/64"),
        ("10.0.0.0/30", "fd00::/64"),
        ("fd00::/64", "fd00::/64"),
        ("10.0.0.0/16", "fd00::/120"),
        ("10.0.0.0/16", "10.0.0.0/16"),
        ("10.0.0.0/16", "ff02::/64"),
        ("10.0.0.0/16", "fe80::/64"),
        ("10.0.0.0/16", "fd7a:115c::/32"),
        ("", ""),
    ],
)
def test_ranges_that_could_not_work(ipv4: str, ipv6: str) -> None:
    with pytest.raises(UserError):
        AddressPlan.parse(ipv4, ipv6)


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("10.0.0.1", "10.0.0.1", 51820),
        ("10.0.0.1:99", "10.0.0.1", 99),
        ("gw.example.org", "gw.example.org", 51820),
        ("gw.example.org.:1", "gw.example.org.", 1),
        ("2001:db8::1", "2001:db8::1", 51820),
        ("[2001:db8::1]", "2001:db8::1", 51820),
        ("[2001:db8::1]:7", "2001:db8::1", 7),
    ],
)
def test_endpoints(text: str, host: str, port: int) -> None:
    assert parse_host_port(text, 51820) == (host, port)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":1",
        "a b",
        "10.0.0.1:0",
        "10.0.0.1:65536",
        "h:x",
        "h:²",
        "[::1",
        "[10.0.0.1]:1",
        "[::1]1",
        "fe80::1%eth0",
        "300.1.1.1",
        "1.2.3",
        "-a.b-",
        "a..b",
        "a" * 64,
        "http://x",
    ],
)
def test_endpoints_that_cannot_be(text: str) -> None:
    with pytest.raises(UserError) as refused:
        parse_host_port(text, 51820)
    assert str(refused.value).isprintable()


@given(st.text(max_size=40))
def test_every_endpoint_is_written_as_it_is_read(text: str) -> None:
    where = outcome(lambda: parse_host_port(text, 51820))
    if where is not None:
        assert parse_host_port(str(where), 1) == where


def test_an_address_knows_its_version() -> None:
    assert [HostPort(h, 1).version for h in ("10.0.0.1", "::1", "gw")] == [4, 6, None]


def test_guessing_without_a_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def connect(self: socket.socket, address: object) -> None:
        raise OSError("no route")

    class Offline(socket.socket):
        pass

    monkeypatch.setattr(Offline, "connect", connect)
    monkeypatch.setattr(hosts.socket, "socket", Offline)
    assert hosts.guess_host() is None
