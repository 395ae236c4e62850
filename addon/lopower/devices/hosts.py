"""Host and port as users write them: `host`, `host:port`, `1.2.3.4`, `[2001:db8::1]:51820`."""

from __future__ import annotations

import ipaddress
import re
import socket
from contextlib import suppress
from typing import NamedTuple

from .errors import UserError
from .names import show

_LABEL = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_-]*[A-Za-z0-9_])?")


class HostPort(NamedTuple):
    """Where clients find the gateway: a name or an address, and a UDP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def version(self) -> int | None:
        """4 or 6 for an address, None for a name."""
        try:
            return ipaddress.ip_address(self.host).version
        except ValueError:
            return None


def parse_host_port(text: str, default_port: int) -> HostPort:
    """An endpoint as a user writes it; without a port it gets the default one."""
    host, port = _split(text.strip(), default_port)
    if not valid_host(host):
        raise UserError(f"{show(text)} is not an address or a host name, with or without a port.")
    return HostPort(host, port)


def _split(text: str, default_port: int) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in host or (rest and not rest.startswith(":")):
            return "", default_port
        return host, parse_port(rest[1:]) if rest else default_port
    if text.count(":") == 1:
        host, _, port = text.partition(":")
        return host, parse_port(port)
    return text, default_port


def parse_port(text: str, *, lowest: int = 1) -> int:
    """A UDP port as a user writes it."""
    if not (text.isascii() and text.isdigit() and len(text) <= 5):
        raise UserError(f"{show(text)} is not a port number.")
    port = int(text)
    if not lowest <= port <= 65535:
        raise UserError(f"A port lies between {lowest} and 65535, not at {port}.")
    return port


def valid_host(host: str) -> bool:
    """Whether this is an IP address (no scope) or a name DNS could hold."""
    try:
        return getattr(ipaddress.ip_address(host), "scope_id", None) is None
    except ValueError:
        labels = host.rstrip(".").split(".")
        named = all(len(label) < 64 and _LABEL.fullmatch(label) for label in labels)
        return named and len(host) < 254 and not labels[-1].isdigit()


def guess_host() -> str | None:
    """This machine's address on the way to the internet; nothing is sent to find it."""
    for family, target in ((socket.AF_INET, "198.51.100.1"), (socket.AF_INET6, "2001:db8::1")):
        with suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((target, 9))
            host = str(probe.getsockname()[0])
            if not ipaddress.ip_address(host).is_unspecified:
                return host
    return None
