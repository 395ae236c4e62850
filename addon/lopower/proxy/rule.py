"""Rules: the destinations a device may reach, as a person writes them.

``ADDRESS_OR_PREFIX_OR_NAME[:PORT[-PORT]][/tcp|/udp]``: ``10.72.0.0/16``, ``printer.lan:631/tcp``,
``[fd00::5]:80/tcp``. ``@default`` is the gateway's default reach, ``@gateway`` nothing beyond its
own services, DNS and ping.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network

Network = IPv4Network | IPv6Network

MAX_RULE_LENGTH = 320  # a name of 253 characters, ports and a protocol
MAX_RULES = 256  # a decision that is not cached walks all of them

DEFAULT = "@default"
GATEWAY = "@gateway"

_NAME_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMBER_LABEL = re.compile(r"\d+|0x[0-9a-f]*")


class RuleError(ValueError):
    """A rule that cannot be understood; the message is one sentence for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """One destination a device may reach; `network` or `name`, or neither for a keyword."""

    host: str
    network: Network | None = None
    ports: tuple[int, int] | None = None  # None: all, and ping
    protocol: str | None = None  # None: all

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Read the text form; RuleError says what is wrong with it."""
        rule = text.strip().lower()
        if not rule:
            raise RuleError("A rule cannot be empty.")
        if len(rule) > MAX_RULE_LENGTH:
            raise RuleError(f"A rule is at most {MAX_RULE_LENGTH} characters long.")
        if rule in (DEFAULT, GATEWAY):
            return cls(rule)
        rest, protocol = _split_protocol(rule)
        host, ports = _split_ports(rest)
        network = _parse_network(host)
        if network is None:
            return cls(_parse_name(host), None, _parse_ports(ports), protocol)
        return cls(_network_text(network), network, _parse_ports(ports), protocol)

    @property
    def name(self) -> str | None:
        """The DNS name of the rule, None where it is an address, a prefix or a keyword."""
        return None if self.network is not None or self.host.startswith("@") else self.host

    def serves(self, port: int, protocol: str) -> bool:
        """Whether port and protocol match; ping only where the rule names neither."""
        if self.protocol is not None and self.protocol != protocol:
            return False
        if self.ports is None:
            return True
        return protocol != "icmp" and self.ports[0] <= port <= self.ports[1]

    def __str__(self) -> str:
        text = self.host
        if self.ports is not None:
            first, last = self.ports
            if ":" in text:
                text = f"[{text}]"
            text += f":{first}" if first == last else f":{first}-{last}"
        return text if self.protocol is None else f"{text}/{self.protocol}"


def parse_rules(texts: Iterable[str]) -> tuple[Rule, ...]:
    """Parse a list of rules in order, without duplicates; a RuleError names the rule at fault."""
    rules: dict[Rule, None] = {}
    for text in texts:
        try:
            rules[Rule.parse(text)] = None
        except RuleError as error:
            raise RuleError(f"{text.strip()[:80]!r}: {error}") from None
    if len(rules) > MAX_RULES:
        raise RuleError(f"There are {len(rules)} rules; at most {MAX_RULES} are possible.")
    return tuple(rules)


def _split_protocol(rule: str) -> tuple[str, str | None]:
    """Cut a protocol off the end; what follows a slash is one unless it is a prefix length."""
    rest, slash, tail = rule.rpartition("/")
    if not slash or tail[:1].isdigit():
        return rule, None
    if tail in ("tcp", "udp"):
        return rest, tail
    raise RuleError(f"{tail[:40]!r} is not a protocol: write /tcp or /udp, or neither for both.")


def _split_ports(rest: str) -> tuple[str, str | None]:
    """Cut the ports off the end of a host, with or without brackets."""
    if rest.startswith("["):
        inside, bracket, tail = rest[1:].partition("]")
        if not bracket:
            raise RuleError("The bracket around the IPv6 address is not closed.")
        length, colon, ports = tail.partition(":")
        if length and not length.startswith("/"):
            raise RuleError("After the closing bracket comes a colon and a port, or nothing.")
        if ":" not in inside:
            raise RuleError("Brackets are for IPv6 addresses only.")
        return inside + length, ports if colon else None
    host, colon, ports = rest.partition(":")
    if not colon:
        return rest, None
    if ":" not in ports:
        return host, ports
    if "/" in rest and ":" in rest.rpartition("/")[2]:
        raise RuleError("An IPv6 prefix with a port is written in brackets: [fd00::/8]:80.")
    return rest, None


def _parse_ports(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    first, dash, last = text.partition("-")
    low, high = _parse_port(first), _parse_port(last if dash else first)
    if low > high:
        raise RuleError(f"The port range {low}-{high} is the wrong way round.")
    return low, high


def _parse_port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 5 and 1 <= int(text) <= 65535):
        raise RuleError(f"{text[:40]!r} is not a port: write a number from 1 to 65535.")
    return int(text)


def _parse_network(host: str) -> Network | None:
    """The address or prefix that `host` is, None where it can only be a name."""
    address, slash, length = host.partition("/")
    if "%" in address:
        raise RuleError("An address with a zone such as %eth0 cannot be a rule.")
    if not slash and ":" not in address and not _ends_in_number(address):
        return None
    try:
        network = ip_network(f"{ip_address(address)}{slash}{length}", strict=False)
    except ValueError:
        what = "prefix" if slash else "address"
        raise RuleError(f"{host[:60]!r} is not an IPv4 or IPv6 {what}.") from None
    if slash and network.network_address != ip_address(address):
        raise RuleError(f"{host} has bits set after its prefix length; write {network}.")
    if slash and not length.isdigit():
        raise RuleError(f"Write the prefix with its length: {network}.")
    return without_mapping(network)


def without_mapping(network: Network) -> Network:
    """::ffff:10.0.0.0/104 is 10.0.0.0/8."""
    if isinstance(network, IPv6Network) and network.prefixlen >= 96:
        mapped = network.network_address.ipv4_mapped
        if mapped is not None:
            return IPv4Network((mapped, network.prefixlen - 96))
    return network


def _ends_in_number(host: str) -> bool:
    """Such a host is read as an address by URL parsers and resolvers: 127.1, 0x7f000001."""
    return _NUMBER_LABEL.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def _parse_name(host: str) -> str:
    name = host.removesuffix(".")
    if not name:
        raise RuleError("A rule starts with an address, a prefix or a name.")
    if "*" in name:
        raise RuleError("Wildcards are not possible: for every address write 0.0.0.0/0 or ::/0.")
    if not name.isascii():
        try:
            name = name.encode("idna").decode()
        except UnicodeError:
            raise RuleError(f"{host[:60]!r} is not a name DNS can carry.") from None
    labels = name.split(".")
    if len(name) > 253 or not all(map(_NAME_LABEL.fullmatch, labels)) or _ends_in_number(name):
        raise RuleError(f"{host[:60]!r} is neither an address, a prefix nor a DNS name.")
    if labels[-1] == "localhost":
        raise RuleError("localhost is the gateway's own machine: to allow it, write 127.0.0.1.")
    return name


def _network_text(network: Network) -> str:
    single = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if single else str(network)
