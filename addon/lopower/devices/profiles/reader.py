"""A strict reader of wg-quick files, as strict as WireGuard's own Android app.

It knows the attributes that app knows, refuses everything else, and tells what was understood;
that is how we make sure that a QR code says what it should before somebody scans it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from .. import keys
from ..hosts import valid_host

_LINE = re.compile(r"(\w+)\s*=\s*([^\s#][^#]*)")
_SEPARATOR = re.compile(r"\s*,\s*")
_PORT = re.compile(r"[0-9]{1,5}")
_FORBIDDEN_IN_ENDPOINT = re.compile(r"[/?#\s]")

INTERFACE = frozenset({"address", "dns", "listenport", "mtu", "privatekey"})
PEER = frozenset({"allowedips", "endpoint", "persistentkeepalive", "presharedkey", "publickey"})
LISTS = frozenset({"address", "dns", "allowedips"})

Values = dict[str, str]


class ReadError(ValueError):
    """A client would refuse this file."""


@dataclass(frozen=True, slots=True)
class ClientConfig:
    """What a client has understood."""

    private_key: bytes = field(repr=False)
    addresses: frozenset[str]
    dns: tuple[str, ...]
    mtu: int | None
    public_key: bytes
    preshared_key: bytes | None = field(repr=False)
    allowed_ips: frozenset[str]
    endpoint: tuple[str, int] | None
    keepalive: int | None


def read(text: str) -> ClientConfig:
    """The configuration in a file with one [Peer]; ReadError where the app would refuse it."""
    interface, peers = _sections(text)
    if len(peers) != 1:
        raise ReadError(f"one [Peer] is expected, not {len(peers)}")
    own, peer = _values(interface, INTERFACE), _values(peers[0], PEER)
    return ClientConfig(
        private_key=_key(_required(own, "privatekey")),
        addresses=frozenset(map(_network, _list(own, "address"))),
        dns=tuple(map(_dns, _list(own, "dns"))),
        mtu=_integer(own, "mtu"),
        public_key=_key(_required(peer, "publickey")),
        preshared_key=_key(peer["presharedkey"]) if "presharedkey" in peer else None,
        allowed_ips=frozenset(map(_network, _list(peer, "allowedips"))),
        endpoint=_endpoint(peer["endpoint"]) if "endpoint" in peer else None,
        keepalive=_integer(peer, "persistentkeepalive"),
    )


def _sections(text: str) -> tuple[list[str], list[list[str]]]:
    interface: list[str] = []
    peers: list[list[str]] = []
    current: list[str] | None = None
    seen = False
    for raw in text.splitlines():
        line = raw.partition("#")[0].strip()
        if line.lower() == "[interface]":
            current, seen = interface, True
        elif line.lower() == "[peer]":
            current = []
            peers.append(current)
        elif line and (current is None or line.startswith("[")):
            raise ReadError("unknown section")
        elif line and current is not None:
            current.append(line)
    if not seen:
        raise ReadError("an [Interface] section is required")
    return interface, peers


def _values(lines: Iterable[str], known: frozenset[str]) -> Values:
    values: Values = {}
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None:
            raise ReadError("syntax error")
        name, value = match[1].lower(), match[2].strip()
        if name not in known:
            raise ReadError(f"unknown attribute {match[1]}")
        values[name] = f"{values[name]},{value}" if name in values and name in LISTS else value
    return values


def _required(values: Values, name: str) -> str:
    if name not in values:
        raise ReadError(f"missing attribute {name}")
    return values[name]


def _list(values: Values, name: str) -> list[str]:
    return _SEPARATOR.split(values[name]) if name in values else []


def _key(text: str) -> bytes:
    try:
        return keys.decode(text)
    except ValueError as error:
        raise ReadError(f"invalid key: {error}") from None


def _integer(values: Values, name: str) -> int | None:
    text = values.get(name)
    if text is None:
        return None
    if not _PORT.fullmatch(text) or int(text) > 65535:
        raise ReadError(f"invalid number for {name}")
    return int(text)


def _network(text: str) -> str:
    address, slash, length = text.partition("/")
    try:
        parsed = ipaddress.ip_address(address)
        bits = int(length) if slash else parsed.max_prefixlen
    except ValueError:
        raise ReadError(f"invalid network {text!r}") from None
    if not 0 <= bits <= parsed.max_prefixlen:
        raise ReadError(f"invalid network mask {text!r}")
    return f"{parsed}/{bits}"


def _dns(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        if not valid_host(text):
            raise ReadError(f"invalid DNS server {text!r}") from None
        return text  # a search domain


def _endpoint(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if _FORBIDDEN_IN_ENDPOINT.search(text) or bracketed != (":" in bare) or not valid_host(bare):
        raise ReadError(f"invalid endpoint {text!r}")
    if not colon or not _PORT.fullmatch(port) or int(port) > 65535:
        raise ReadError(f"missing or invalid port in {text!r}")
    return bare, int(port)
