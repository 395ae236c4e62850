"""Cryptokey routing: the kernel's selftests (as in wireguard-go), and ipaddress as the model."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.wireguard.allowedips import MAX_CACHED, AllowedIps

# wireguard-go, device/allowedips_test.go
IPV4 = [
    ("a", "192.168.4.0/24"),
    ("b", "192.168.4.4/32"),
    ("c", "192.168.0.0/16"),
    ("d", "192.95.5.64/27"),
    ("c", "192.95.5.65/27"),
    ("e", "0.0.0.0/0"),
    ("g", "64.15.112.0/20"),
    ("h", "64.15.123.211/25"),
    ("a", "10.0.0.0/25"),
    ("b", "10.0.0.128/25"),
    ("a", "10.1.0.0/30"),
    ("b", "10.1.0.4/30"),
    ("c", "10.1.0.8/29"),
    ("d", "10.1.0.16/29"),
]
IPV4_FOUND = [
    ("a", "192.168.4.20"),
    ("a", "192.168.4.0"),
    ("b", "192.168.4.4"),
    ("c", "192.168.200.182"),
    ("c", "192.95.5.68"),
    ("e", "192.95.5.96"),
    ("g", "64.15.116.26"),
    ("g", "64.15.127.3"),
]
IPV6 = [
    ("d", "2607:5300:6000:6b00::c05f:543/128"),
    ("c", "2607:5300:6000:6b00::/64"),
    ("e", "::/0"),
    ("f", "::/0"),
    ("g", "2404:6800::/32"),
    ("h", "2404:6800:4004:800:dead:beef:dead:beef/64"),
    ("a", "2404:6800:4004:800:dead:beef:dead:beef/128"),
    ("c", "2444:6800:40e4:800:deae:beef:def:beef/128"),
    ("b", "2444:6800:f0e4:800:eeae:beef::/98"),
]
IPV6_FOUND = [
    ("d", "2607:5300:6000:6b00::c05f:543"),
    ("c", "2607:5300:6000:6b00::c02e:1ee"),
    ("f", "2607:5300:6000:6b01::"),
    ("g", "2404:6800:4004:806::1006"),
    ("g", "2404:6800:4004:806:0:1234:0:5678"),
    ("f", "2404:67ff:4004:806:0:1234:0:5678"),
    ("f", "2404:6801:4004:806:0:1234:0:5678"),
    ("h", "2404:6800:4004:800:0:1234:0:5678"),
    ("h", "2404:6800:4004:800::"),
    ("h", "2404:6800:4004:800:1010:1010:1010:1010"),
    ("a", "2404:6800:4004:800:dead:beef:dead:beef"),
]


def table(entries: list[tuple[str, str]]) -> AllowedIps[str]:
    allowed: AllowedIps[str] = AllowedIps()
    for owner, prefix in entries:
        allowed.insert(prefix, owner)
    return allowed


def test_ipv4_of_the_kernel() -> None:
    allowed = table(IPV4)
    for owner, address in IPV4_FOUND:
        assert allowed.lookup(ip_address(address).packed) == owner, address
    hosts = ["1.0.0.0", "64.0.0.0", "128.0.0.0", "192.0.0.0", "255.0.0.0"]
    for host in hosts:
        allowed.insert(f"{host}/32", "a")
    assert all(allowed.lookup(ip_address(host).packed) == "a" for host in hosts)
    allowed.remove_owner("a")
    assert not any(allowed.lookup(ip_address(host).packed) == "a" for host in hosts)
    for owner, _ in IPV4:
        allowed.remove_owner(owner)
    assert allowed.lookup(ip_address("10.0.0.1").packed) is None
    assert allowed._tables == {32: [], 128: []}


def test_nested_prefixes_of_one_owner() -> None:
    allowed = table([("a", "192.168.0.0/16"), ("a", "192.168.0.0/24")])
    address = ip_address("192.168.0.1").packed
    assert allowed.lookup(address) == "a"
    allowed.remove("192.168.0.0/24", "a")
    assert allowed.lookup(address) == "a"
    allowed.remove_owner("a")
    assert allowed.lookup(address) is None


def test_ipv6_of_the_kernel() -> None:
    allowed = table(IPV6)
    for owner, address in IPV6_FOUND:
        assert allowed.lookup(ip_address(address).packed) == owner, address


def test_a_prefix_moves_to_its_new_owner() -> None:
    allowed = table([("a", "10.0.0.0/24"), ("b", "10.0.0.0/24")])
    allowed.remove("10.0.0.0/24", "a")  # not its owner any more
    assert list(allowed.prefixes("a")) == []
    assert list(allowed.prefixes("b")) == [ip_network("10.0.0.0/24")]


def test_forms_of_a_prefix() -> None:
    allowed: AllowedIps[str] = AllowedIps()
    allowed.insert(IPv4Network("10.1.0.0/16"), "a")
    allowed.insert((bytes((10, 2, 3, 4)), 16), "b")
    allowed.insert("fd00::1", "c")
    assert allowed.lookup(bytes((10, 1, 9, 9))) == "a"
    assert allowed.lookup(bytes((10, 2, 9, 9))) == "b"
    assert allowed.lookup(ip_address("fd00::1").packed) == "c"
    assert list(allowed.prefixes("b")) == [ip_network("10.2.0.0/16")]
    assert list(allowed.prefixes("c")) == [ip_network("fd00::1/128")]


@pytest.mark.parametrize(
    "prefix", ["10.0.0.0/33", "nonsense", (b"abc", 8), (b"abcd", 33), (b"abcd", -1)]
)
def test_what_is_no_prefix(prefix: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        AllowedIps[str]().insert(prefix, "a")


def test_odd_addresses_belong_to_nobody() -> None:
    allowed = table(IPV4 + IPV6)
    assert allowed.lookup(b"") is None
    assert allowed.lookup(b"abc") is None


def test_the_cache_is_bounded_and_forgotten() -> None:
    allowed = table([("a", "0.0.0.0/0")])
    for number in range(MAX_CACHED + 10):
        assert allowed.lookup(number.to_bytes(4)) == "a"
    assert len(allowed.cache) <= MAX_CACHED
    allowed.insert("0.0.0.0/24", "b")
    assert allowed.lookup(bytes(4)) == "b"


networks = st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 32)).map(
    lambda pair: IPv4Network(pair, strict=False)
)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 4), networks), max_size=12),
    st.lists(st.integers(0, 2**32 - 1), max_size=8),
    st.integers(0, 4),
)
def test_like_the_model(
    entries: list[tuple[int, IPv4Network]], addresses: list[int], gone: int
) -> None:
    allowed: AllowedIps[int] = AllowedIps()
    model: dict[IPv4Network, int] = {}
    for owner, network in entries:
        allowed.insert(network, owner)
        model[network] = owner
    allowed.remove_owner(gone)
    model = {network: owner for network, owner in model.items() if owner != gone}
    probes = [IPv4Address(a) for a in addresses] + [n.network_address for n in model]
    for address in probes:
        holding = [n for n in model if address in n]
        best = max(holding, key=lambda n: n.prefixlen, default=None)
        expected = None if best is None else model[best]
        assert allowed.lookup(address.packed) == expected
