"""Each profile is what its client reads: word for word, and by the client's own rules."""

from __future__ import annotations

import base64
import re
import shutil
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.devices import keys, profiles
from lopower.devices.addresses import AddressPlan
from lopower.devices.errors import UserError
from lopower.devices.hosts import HostPort
from lopower.devices.profiles import ProfileInput, esphome, reader, wg_quick
from lopower.devices.profiles.input import PLACEHOLDER

PRIVATE = bytes.fromhex("77076d0a7318a57d3c16c17251b26645df4cdd5b8f6bd6b8f8f6bd6b8f8f6b40")
PRIVATE_TEXT = keys.encode(PRIVATE)
PSK = bytes(range(32))
PSK_TEXT = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="
SERVER = bytes(range(100, 132))
SERVER_TEXT = "ZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXp7fH1+f4CBgoM="

PROFILE = ProfileInput(
    name="lamp",
    private_key=PRIVATE,
    preshared_key=PSK,
    server_public_key=SERVER,
    endpoint=HostPort("192.168.1.10", 51820),
    ipv4=IPv4Address("10.90.0.2"),
    ipv6=IPv6Address("fd7a:115c:a1e0:9909::2"),
    plan=AddressPlan.parse(),
)
IPV4_ONLY = ("esphome", "tasmota", "arduino")

GOLDEN = {
    "wg-quick": f"""\
[Interface]
# lamp.lopower.internal
PrivateKey = {PRIVATE_TEXT}
Address = fd7a:115c:a1e0:9909::2/128, 10.90.0.2/32
DNS = fd7a:115c:a1e0:9909::1, 10.90.0.1
MTU = 1280

[Peer]
PublicKey = {SERVER_TEXT}
PresharedKey = {PSK_TEXT}
AllowedIPs = fd7a:115c:a1e0::/48, 10.90.0.0/16, 100.64.0.0/10
Endpoint = 192.168.1.10:51820
PersistentKeepalive = 25
""",
    "esphome": f"""\
# lamp.lopower.internal
time:
  - platform: sntp
wireguard:
  address: 10.90.0.2
  netmask: 255.255.0.0
  private_key: "{PRIVATE_TEXT}"
  peer_endpoint: 192.168.1.10
  peer_port: 51820
  peer_public_key: "{SERVER_TEXT}"
  peer_preshared_key: "{PSK_TEXT}"
  peer_allowed_ips:
    - 10.90.0.0/16
  peer_persistent_keepalive: 25s
  reboot_timeout: 0s
""",
    "tasmota": f"""\
[Interface]
PrivateKey = {PRIVATE_TEXT}
Address = 10.90.0.2/16

[Peer]
PublicKey = {SERVER_TEXT}
PresharedKey = {PSK_TEXT}
Endpoint = 192.168.1.10:51820
AllowedIPs = 10.90.0.0/16
PersistentKeepalive = 25

[Tasmota]
Netmask = 255.255.0.0
AutoConnect = 1
""",
    "arduino": f"""\
#pragma once
// lamp.lopower.internal; holds secrets, keep it out of version control.
// Set the clock by SNTP before the tunnel is started: handshakes carry the time.
#define LOPOWER_PRIVATE_KEY "{PRIVATE_TEXT}"
#define LOPOWER_ADDRESS "10.90.0.2"
#define LOPOWER_NETMASK "255.255.0.0"
#define LOPOWER_GATEWAY "10.90.0.1"
#define LOPOWER_SERVER_PUBLIC_KEY "{SERVER_TEXT}"
#define LOPOWER_PRESHARED_KEY "{PSK_TEXT}"
#define LOPOWER_ALLOWED_IP "10.90.0.0"
#define LOPOWER_ALLOWED_IP_MASK "255.255.0.0"
#define LOPOWER_ENDPOINT "192.168.1.10"
#define LOPOWER_ENDPOINT_PORT 51820
#define LOPOWER_KEEPALIVE 25
#define LOPOWER_MTU 1280
""",
}


@pytest.mark.parametrize("kind", GOLDEN)
def test_word_for_word(kind: str) -> None:
    assert profiles.render(kind, PROFILE) == GOLDEN[kind]


def test_every_kind_has_a_golden_file() -> None:
    assert set(GOLDEN) == set(profiles.KINDS)


@pytest.mark.parametrize("kind", GOLDEN)
def test_a_device_that_keeps_its_key_is_told_so(kind: str) -> None:
    text = profiles.render(kind, replace(PROFILE, private_key=None))
    assert PLACEHOLDER in text
    assert PRIVATE_TEXT not in text


@pytest.mark.parametrize("kind", ["wg-quick", "esphome", "arduino"])
def test_without_a_preshared_key(kind: str) -> None:
    text = profiles.render(kind, replace(PROFILE, preshared_key=None))
    assert PSK_TEXT not in text
    assert "None" not in text
    assert not re.search(r"preshared_?key\b.*[=:]", text, re.IGNORECASE)


@pytest.mark.parametrize("kind", IPV4_ONLY)
def test_small_clients_need_ipv4(kind: str) -> None:
    with pytest.raises(UserError, match="only IPv4 in the tunnel, and IPv4 is off"):
        profiles.render(kind, replace(PROFILE, ipv4=None))
    with pytest.raises(UserError, match="IPv6 endpoint"):
        profiles.render(kind, replace(PROFILE, endpoint=HostPort("2001:db8::1", 51820)))


def test_a_name_as_endpoint() -> None:
    named = replace(PROFILE, endpoint=HostPort("gw.example.org", 5000))
    assert "Endpoint = gw.example.org:5000" in profiles.render("wg-quick", named)
    snippet = profiles.render("esphome", named)
    assert yaml(snippet)["wireguard"]["peer_endpoint"] == "gw.example.org"
    assert "address is safer" in snippet
    assert '"gw.example.org"' in profiles.render("arduino", named)
    with pytest.raises(UserError, match="needs the gateway's IPv4 address"):
        profiles.render("tasmota", named)


def test_an_unknown_kind() -> None:
    with pytest.raises(UserError, match="choose from wg-quick, esphome, tasmota, arduino"):
        profiles.render("windows", PROFILE)


def test_no_secret_shows_in_a_repr() -> None:
    shown = repr(PROFILE) + repr(reader.read(GOLDEN["wg-quick"]))
    assert repr(PRIVATE)[2:-1] not in shown
    assert repr(PSK)[2:-1] not in shown


# wg-quick


def test_with_ipv4_off_wg_quick_is_ipv6_alone() -> None:
    found = reader.read(profiles.render("wg-quick", replace(PROFILE, ipv4=None)))
    assert found.addresses == {"fd7a:115c:a1e0:9909::2/128"}
    assert found.dns == ("fd7a:115c:a1e0:9909::1",)
    assert found.allowed_ips == {"fd7a:115c:a1e0::/48"}


def test_allowed_ips_cover_what_the_rules_allow() -> None:
    routes = (
        IPv4Network("192.168.7.0/24"),
        IPv6Network("2001:db8::/32"),
        IPv4Network("10.90.0.1/32"),
        IPv6Network("fd7a:115c:a1e0:9909::1/128"),
    )
    plan = AddressPlan.parse("10.1.0.0/16", "fd00:1::/64")
    text = profiles.render("wg-quick", replace(PROFILE, plan=plan, routes=routes))
    allowed = [ip_network(network) for network in reader.read(text).allowed_ips]
    tailnet = (IPv4Network("100.64.0.0/10"), IPv6Network("fd7a:115c:a1e0::/48"))
    for wanted in (*routes, plan.ipv4, plan.ipv6, *tailnet):
        assert any(
            wanted.version == network.version and wanted.subnet_of(network)  # type: ignore[arg-type]
            for network in allowed
        ), wanted


@pytest.mark.skipif(not shutil.which("wg-quick"), reason="wg-quick is not installed")
@pytest.mark.parametrize("ipv4", [True, False])
@pytest.mark.parametrize("host", ["192.168.1.10", "2001:db8::1", "gw.example.org"])
def test_wg_quick_itself_takes_the_file(tmp_path: Path, ipv4: bool, host: str) -> None:
    profile = replace(PROFILE, endpoint=HostPort(host, 51820))
    if not ipv4:
        profile = replace(profile, ipv4=None)
    path = tmp_path / "wg0.conf"
    path.write_text(profiles.render("wg-quick", profile))
    path.chmod(0o600)
    stripped = subprocess.run(
        ["wg-quick", "strip", str(path)], capture_output=True, text=True, check=True, timeout=10
    )
    assert f"PrivateKey = {PRIVATE_TEXT}" in stripped.stdout
    assert "Address" not in stripped.stdout
    assert stripped.stderr == ""


def test_a_file_that_says_something_else_is_not_given_out() -> None:
    with pytest.raises(reader.ReadError, match="what was meant"):
        wg_quick.verify(GOLDEN["wg-quick"].replace("1280", "1420"), PROFILE)


def with_line(section: str, line: str) -> str:
    return GOLDEN["wg-quick"].replace(section, f"{section}\n{line}", 1)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "Interface"),
        ("PrivateKey = x", "unknown section"),
        ("[Other]", "unknown section"),
        ("[Interface]", "one \\[Peer\\]"),
        (GOLDEN["wg-quick"] + "[Peer]\n", "not 2"),
        (with_line("[Interface]", "PostUp = rm"), "unknown attribute PostUp"),
        (with_line("[Peer]", "Colour = red"), "unknown attribute Colour"),
        (with_line("[Peer]", "nonsense"), "syntax error"),
        (with_line("[Peer]", "MTU ="), "syntax error"),
        (GOLDEN["wg-quick"].replace(PRIVATE_TEXT, "x"), "invalid key"),
        (GOLDEN["wg-quick"].replace("PublicKey", "#"), "missing attribute publickey"),
        (GOLDEN["wg-quick"].replace("/32", "/33"), "invalid network mask"),
        (GOLDEN["wg-quick"].replace("10.90.0.2/32", "here"), "invalid network"),
        (GOLDEN["wg-quick"].replace("10.90.0.0/16", "10.90.0.0/a"), "invalid network"),
        (GOLDEN["wg-quick"].replace("DNS = fd7a", "DNS = ,fd7a"), "invalid DNS"),
        (GOLDEN["wg-quick"].replace("1280", "65536"), "invalid number"),
        (GOLDEN["wg-quick"].replace("Keepalive = 25", "Keepalive = 25s"), "invalid number"),
        (GOLDEN["wg-quick"].replace(":51820", ""), "invalid endpoint"),
        (GOLDEN["wg-quick"].replace(":51820", ":x"), "port"),
        (GOLDEN["wg-quick"].replace("192.168.1.10", "2001:db8::1"), "invalid endpoint"),
        (GOLDEN["wg-quick"].replace("192.168.1.10", "[192.168.1.10]"), "invalid endpoint"),
        (GOLDEN["wg-quick"].replace("192.168.1.10", "a/b"), "invalid endpoint"),
    ],
)
def test_the_reader_is_strict(text: str, complaint: str) -> None:
    with pytest.raises(reader.ReadError, match=complaint):
        reader.read(text)


def test_the_reader_knows_the_finer_points() -> None:
    text = GOLDEN["wg-quick"].replace("[Interface]", " [INTERFACE] # comment")
    text = text.replace("Address =", "Address = 10.0.0.9\nADDRESS=")
    text = text.replace("DNS = ", "DNS = search.example , ")
    found = reader.read(text)
    assert "10.0.0.9/32" in found.addresses
    assert len(found.addresses) == 3
    assert found.dns[0] == "search.example"
    bare = re.sub("(MTU|DNS|Endpoint|PersistentKeepalive|PresharedKey).*\n", "", text)
    found = reader.read(bare)
    assert (found.mtu, found.endpoint, found.keepalive, found.preshared_key) == (None,) * 4
    assert found.dns == ()


@given(
    st.binary(min_size=32, max_size=32),
    st.one_of(st.none(), st.binary(min_size=32, max_size=32)),
    st.ip_addresses(v=4),
    st.ip_addresses(v=6),
    st.one_of(st.ip_addresses(), st.just("gw.example.org")),
    st.integers(1, 65535),
    st.booleans(),
)
def test_whatever_is_written_is_read_back(
    private: bytes, psk: bytes | None, ipv4: Any, ipv6: Any, host: Any, port: int, off: bool
) -> None:
    profile = replace(
        PROFILE,
        private_key=private,
        preshared_key=psk,
        ipv4=None if off else ipv4,
        ipv6=ipv6,
        endpoint=HostPort(str(host), port),
    )
    assert reader.read(profiles.render("wg-quick", profile)) == wg_quick.meant(profile)


@given(st.text())
def test_the_reader_fails_only_in_its_own_way(text: str) -> None:
    for candidate in (text, GOLDEN["wg-quick"] + text, f"[Interface]\n{text}\n[Peer]\n{text}"):
        try:
            reader.read(candidate)
        except reader.ReadError:
            continue


# ESPHome


def yaml(text: str) -> dict[str, Any]:
    """The small part of YAML that our snippet uses: mappings, one kind of list, quoted text."""
    root: dict[str, Any] = {}
    section: dict[str, Any] = {}
    key = ""
    for line in text.splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(r"( *)(- )?(?:(\w+):)? ?(.*)", line)
        assert match, line
        indent, item, name, value = len(match[1]), match[2], match[3], scalar(match[4])
        if indent == 0:
            section = root[name] = {}
        elif item and name:
            section.setdefault("items", []).append({name: value})
        elif item:
            section[key].append(value)
        else:
            assert indent == 2
            key, section[name] = name, [] if value == "" else value
    return root


def scalar(text: str) -> str:
    return text[1:-1] if text.startswith('"') and text.endswith('"') else text


def test_esphome_has_exactly_the_keys_it_needs() -> None:
    found = yaml(profiles.render("esphome", PROFILE))
    assert found == {
        "time": {"items": [{"platform": "sntp"}]},
        "wireguard": {
            "address": "10.90.0.2",
            "netmask": "255.255.0.0",
            "private_key": PRIVATE_TEXT,
            "peer_endpoint": "192.168.1.10",
            "peer_port": "51820",
            "peer_public_key": SERVER_TEXT,
            "peer_preshared_key": PSK_TEXT,
            "peer_allowed_ips": ["10.90.0.0/16"],
            "peer_persistent_keepalive": "25s",
            "reboot_timeout": "0s",
        },
    }


def test_esphome_routes_what_its_netmask_covers() -> None:
    plan = AddressPlan.parse("10.128.0.0/12")
    found = yaml(profiles.render("esphome", replace(PROFILE, plan=plan)))["wireguard"]
    assert found["netmask"] == "255.240.0.0"
    assert found["peer_allowed_ips"] == ["10.128.0.0/12"]


def test_esphome_secrets_can_stand_apart() -> None:
    snippet, secrets = esphome.write_apart(replace(PROFILE, name="desk-lamp"))
    assert PRIVATE_TEXT not in snippet
    assert PSK_TEXT not in snippet
    assert "private_key: !secret lopower_desk_lamp_private_key" in snippet
    assert f'lopower_desk_lamp_private_key: "{PRIVATE_TEXT}"' in secrets
    assert f'lopower_desk_lamp_preshared_key: "{PSK_TEXT}"' in secrets
    snippet, secrets = esphome.write_apart(replace(PROFILE, preshared_key=None))
    assert "preshared" not in snippet + secrets


# Tasmota


class Tasmota:
    """What the firmware's own reader of /wireguard.conf accepts, transcribed from its rules."""

    def __init__(self, text: str) -> None:
        self.values: dict[tuple[str, str], str] = {}
        section = ""
        for line in text.splitlines():
            assert len(line) < 100, "it reads into a short buffer"
            if line.startswith("["):
                section = line.strip("[]")
            elif line:
                name, _, value = line.partition("=")
                self.values[section, name.strip()] = value.strip()

    def key(self, section: str, name: str) -> bytes:
        """getValueBase64: exactly 32 bytes; a missing one makes the whole file invalid."""
        value = base64.b64decode(self.values[section, name], validate=True)
        assert len(value) == 32
        return value

    def cidr(self, section: str, name: str) -> tuple[IPv4Address, int]:
        """getCIDR: one IPv4 address with its prefix length, nothing after it."""
        address, _, length = self.values[section, name].partition("/")
        return IPv4Address(address), int(length)

    def endpoint(self) -> tuple[IPv4Address, int]:
        host, _, port = self.values["Peer", "Endpoint"].partition(":")
        return IPv4Address(host), int(port)


def test_tasmota_understands_its_file() -> None:
    found = Tasmota(profiles.render("tasmota", PROFILE))
    assert found.key("Interface", "PrivateKey") == PRIVATE
    assert found.key("Peer", "PublicKey") == SERVER
    assert found.key("Peer", "PresharedKey") == PSK
    assert found.cidr("Interface", "Address") == (IPv4Address("10.90.0.2"), 16)
    assert found.endpoint() == (IPv4Address("192.168.1.10"), 51820)
    assert found.cidr("Peer", "AllowedIPs") == (IPv4Address("10.90.0.0"), 16)
    assert int(found.values["Peer", "PersistentKeepalive"]) == 25
    assert IPv4Address(found.values["Tasmota", "Netmask"]) == IPv4Address("255.255.0.0")
    assert found.values["Tasmota", "AutoConnect"] == "1"


def test_tasmota_sends_only_the_gateways_range_into_the_tunnel() -> None:
    """Without Netmask it would be 0.0.0.0: everything, its way to the gateway included."""
    found = Tasmota(profiles.render("tasmota", PROFILE))
    assert found.values["Tasmota", "Netmask"] != "0.0.0.0"


# Arduino

SKETCH = """
#include "lopower.h"
#include <stdint.h>
typedef struct {
    const char *private_key; int listen_port; uint32_t fw_mark;
    const char *public_key; const char *preshared_key;
    const char *allowed_ip; const char *allowed_ip_mask;
    const char *endpoint; int port; int persistent_keepalive;
} wireguard_config_t;
#ifndef LOPOWER_PRESHARED_KEY
#define LOPOWER_PRESHARED_KEY 0
#endif
wireguard_config_t config = {
    LOPOWER_PRIVATE_KEY, 0, 0, LOPOWER_SERVER_PUBLIC_KEY, LOPOWER_PRESHARED_KEY,
    LOPOWER_ADDRESS, LOPOWER_NETMASK, LOPOWER_ENDPOINT, LOPOWER_ENDPOINT_PORT, LOPOWER_KEEPALIVE,
};
const char *const more[] = {LOPOWER_GATEWAY, LOPOWER_ALLOWED_IP, LOPOWER_ALLOWED_IP_MASK};
typedef char key_is_whole[sizeof(LOPOWER_PRIVATE_KEY) == 45 ? 1 : -1];
typedef char mtu_is_right[LOPOWER_MTU == 1280 ? 1 : -1];
"""


@pytest.mark.skipif(not shutil.which("g++"), reason="g++ is not installed")
@pytest.mark.parametrize("language", ["c++", "c"])
@pytest.mark.parametrize("psk", [PSK, None], ids=["psk", "no psk"])
def test_a_sketch_compiles_with_the_constants(
    tmp_path: Path, language: str, psk: bytes | None
) -> None:
    text = profiles.render("arduino", replace(PROFILE, preshared_key=psk))
    (tmp_path / "lopower.h").write_text(text)
    command = ["g++", "-x", language, "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-"]
    subprocess.run(command, input=SKETCH, text=True, check=True, cwd=tmp_path, timeout=30)


def test_the_devices_own_address_is_allowed_in() -> None:
    """The libraries check incoming packets by their destination."""
    text = profiles.render("arduino", PROFILE)
    values = dict(re.findall(r'#define LOPOWER_(\w+) "?([^"\n]*)"?', text))
    allowed = IPv4Network(f"{values['ALLOWED_IP']}/{values['ALLOWED_IP_MASK']}")
    assert IPv4Address(values["ADDRESS"]) in allowed
    assert IPv4Address(values["GATEWAY"]) in allowed
