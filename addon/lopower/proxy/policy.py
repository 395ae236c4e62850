"""What a device may reach. Decided here, before any dial.

Order of a decision:

1. The gateway's own addresses answer DNS, ping and the gateway services, and nothing else.
2. Other spellings of an IPv4 address (mapped, 6to4, NAT64, Teredo …) get that address' verdict.
3. Addresses that mean something else where the dial happens are *reserved*. A broad rule such as
   ``0.0.0.0/0`` never includes them: loopback, link-local and other devices need a rule that lies
   inside their range, addresses of the host a rule with exactly that address, a LAN attached to the
   host any rule narrower than /0. Multicast, broadcast and unspecified addresses stay refused.
4. Everything else needs a rule that covers it.

Without rules a device has the default reach of the context; a list of rules replaces it, and may
include it again as ``@default``. A flow to an alias address is decided by the address behind it.

Names are pinned to the addresses a resolver gave. A name never opens a reserved address, so DNS
rebinding cannot; two exceptions: names of the gateway's own zone open devices, and local names
(``printer.lan``) open an attached LAN. A public name opens private addresses only where the
default reach has them anyway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import (
    IPv4Address,
    IPv4Network,
    IPv6Address,
    IPv6Network,
    collapse_addresses,
    ip_network,
)
from typing import Literal, NamedTuple

from lopower.proxy.refusals import Refusal, Refusals
from lopower.proxy.reserved import (
    ALWAYS,
    DEVICE,
    HOST,
    LAN,
    MAPPED,
    PRIVATE,
    Opens,
    Reserved,
    embedded,
    find,
    reserve,
)
from lopower.proxy.rule import (
    DEFAULT,
    GATEWAY,
    Network,
    Rule,
    RuleError,
    parse_rules,
    without_mapping,
)

__all__ = [
    "Context",
    "Network",
    "Policy",
    "Protocol",
    "Refusal",
    "Refusals",
    "Rule",
    "RuleError",
    "Verdict",
    "parse_rules",
    "routes",
]

Protocol = Literal["tcp", "udp", "icmp"]

MAX_VERDICTS = 4096  # a port scan must not grow memory
MAX_PINS = 64  # addresses per name: what large round-robin names hand out
MIN_PIN = 60.0  # seconds; a device may dial what it resolved a moment ago
MAX_PIN = 86400.0
PIN_GRACE = 3600.0  # seconds a pin outlives its TTL while the resolver fails
PIN_RETRY = 30.0  # seconds between attempts to resolve a name

# Suffixes no public registry hands out (RFC 6762, 8375, ICANN's .internal, and what routers use).
_LOCAL_SUFFIXES = frozenset(
    ("local", "lan", "home", "internal", "localdomain", "intranet", "private", "home.arpa")
)


class Verdict(NamedTuple):
    allowed: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Context:
    """What the gateway knows about its surroundings, the same for every device.

    `host_addresses` are all addresses of the machine, its own tailnet addresses among them: the
    tailnet node forwards those to loopback. `host_networks` are the LANs attached to it.
    """

    gateway: tuple[bytes, ...] = (
        IPv4Address("10.90.0.1").packed,
        IPv6Address("fd7a:115c:a1e0:9909::1").packed,
    )
    devices: tuple[Network, ...] = (
        IPv4Network("10.90.0.0/16"),
        IPv6Network("fd7a:115c:a1e0:9909::/64"),
    )
    services: frozenset[tuple[int, str]] = frozenset()  # (port, protocol) at the gateway
    host_addresses: tuple[bytes, ...] = ()
    host_networks: tuple[Network, ...] = ()
    reach: tuple[Rule, ...] = ()  # the default: tailnet prefixes, or what the operator allows
    zone: str = "lopower.internal"
    reserved: tuple[Reserved, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        found = list(ALWAYS)
        for address in self.host_addresses:
            network = without_mapping(ip_network(address))
            found.append(reserve(network, Opens.EXACT, HOST))
        found += [reserve(network, Opens.INSIDE, DEVICE) for network in self.devices]
        for network in self.host_networks:
            broadcast = network.broadcast_address
            if isinstance(broadcast, IPv4Address) and network.prefixlen < 31:
                found.append(reserve(f"{broadcast}/32", Opens.NEVER, "a broadcast address"))
            found.append(reserve(network, Opens.NARROW, LAN))
        object.__setattr__(self, "reserved", tuple(found))


class _Target(NamedTuple):
    """A rule made ready for comparing: a range of addresses of one size."""

    size: int
    low: int
    high: int
    rule: Rule


class Policy:
    """Decides what one device may reach. No rules: the default reach of the context."""

    __slots__ = ("_asked", "_context", "_pins", "_reach", "_rules", "_targets", "_verdicts")

    def __init__(self, rules: Sequence[Rule] | None, context: Context) -> None:
        self._context = context
        self._pins: dict[str, dict[bytes, float]] = {}  # address -> when its TTL ends
        self._asked: dict[str, float] = {}  # name -> when it may be asked for again
        self._verdicts: dict[tuple[bytes, int, str], Verdict] = {}
        self.set_rules(rules)

    @property
    def rules(self) -> tuple[Rule, ...]:
        """The rules in force, keywords replaced."""
        return self._rules

    @property
    def context(self) -> Context:
        return self._context

    def set_rules(self, rules: Sequence[Rule] | None) -> None:
        """Replace the rules; flows already open are the caller's to end."""
        self._rules = _expand(rules or (Rule(DEFAULT),), self._context)
        names = dict.fromkeys(rule.host for rule in self._rules if rule.name is not None)
        self._pins = {name: self._pins.get(name, {}) for name in names}
        self._asked = {name: self._asked.get(name, 0.0) for name in names}
        self._compile()

    def set_context(self, context: Context, rules: Sequence[Rule] | None = None) -> None:
        """Replace the context, together with the rules as the person wrote them."""
        self._context = context
        self.set_rules(rules)

    def check(self, destination: bytes, port: int, protocol: Protocol) -> Verdict:
        """Whether a flow may be dialled; `destination` is packed, a ping's port is 0."""
        key = (destination, port, protocol)
        verdict = self._verdicts.get(key)
        return verdict if verdict is not None else self._decide(key)

    def _decide(self, key: tuple[bytes, int, str]) -> Verdict:
        destination, port, protocol = key
        if len(destination) not in (4, 16):
            return Verdict(False, "not an IP address")
        if destination in self._context.gateway:
            verdict = self._gateway(port, protocol)
        else:
            verdict = self._spelled(destination, port, protocol)
        if len(self._verdicts) >= MAX_VERDICTS:
            del self._verdicts[next(iter(self._verdicts))]
        self._verdicts[key] = verdict
        return verdict

    def _gateway(self, port: int, protocol: str) -> Verdict:
        if protocol == "icmp" or port == 53 or (port, protocol) in self._context.services:
            return Verdict(True, "a service of the gateway")
        return Verdict(False, "not a service of the gateway")

    def _spelled(self, destination: bytes, port: int, protocol: str) -> Verdict:
        """The verdict of the IPv4 address inside, where there is one."""
        spellings = embedded(destination) if len(destination) == 16 else ()
        for address in spellings:
            if address in self._context.gateway:
                return Verdict(False, "another spelling of the gateway's address")
            if find(self._context.reserved, address) is not None:
                return self._plain(address, port, protocol)
        if destination[:8] == bytes(8) and spellings:  # a host dials these as IPv4
            return self._plain(spellings[0], port, protocol)
        verdict = self._plain(destination, port, protocol)
        if verdict.allowed or not spellings or find(self._context.reserved, destination):
            return verdict
        return self._plain(spellings[-1], port, protocol)

    def _plain(self, destination: bytes, port: int, protocol: str) -> Verdict:
        size, value = len(destination), int.from_bytes(destination, "big")
        reserved = find(self._context.reserved, destination)
        reason = "not on the allow list" if reserved is None else reserved.reason
        for target in self._targets:
            if not target.low <= value <= target.high or target.size != size:
                continue
            rule = target.rule
            if not rule.serves(port, protocol):
                continue
            if rule.network is None:
                obstacle = self._rebound(rule.host, destination, reserved)
                if obstacle is not None:
                    reason = obstacle
                    continue
            elif reserved is not None and not reserved.opened_by(
                target.low, target.high, rule.network.prefixlen == 0
            ):
                continue
            return Verdict(True, f"allowed by {rule}")
        return Verdict(False, reason)

    def _rebound(self, name: str, destination: bytes, reserved: Reserved | None) -> str | None:
        """Why a name must not open an address it resolves to; None where it may."""
        zone = self._context.zone
        if reserved is not None:
            ours = reserved.reason is DEVICE and name.endswith("." + zone)
            near = reserved.reason is LAN and is_local(name)
            return None if ours or near else f"{name} resolves to {reserved.reason}"
        if find(PRIVATE, destination) is None or is_local(name) or self._in_reach(destination):
            return None
        return f"{name} resolves to a private address"

    def _in_reach(self, destination: bytes) -> bool:
        size, value = len(destination), int.from_bytes(destination, "big")
        return any(size == t.size and t.low <= value <= t.high for t in self._reach)

    def _compile(self) -> None:
        self._verdicts.clear()
        self._reach = tuple(_targets(_expand((Rule(DEFAULT),), self._context)))
        targets = list(_targets(self._rules))
        for rule in self._rules:
            for address in self._pins.get(rule.host, ()):
                value = int.from_bytes(address, "big")
                targets.append(_Target(len(address), value, value, rule))
        self._targets = tuple(targets)

    # Names: whoever resolves them hands the addresses in.

    def pin(self, name: str, addresses: Iterable[bytes], ttl: float, now: float) -> None:
        """Let a name stand for these addresses too, for as long as its TTL says."""
        pins = self._pins.get(name.lower().removesuffix("."))
        if pins is None:
            return
        before = frozenset(pins)
        for packed in addresses:
            mapped = packed[:12] == MAPPED and len(packed) == 16
            address = bytes(packed[12:] if mapped else packed)
            pins.pop(address, None)
            pins[address] = now + min(max(ttl, MIN_PIN), MAX_PIN)
        while len(pins) > MAX_PINS:
            del pins[next(iter(pins))]
        if pins.keys() != before:
            self._compile()

    def names_due(self, now: float) -> list[str]:
        """The names to resolve now, each again after PIN_RETRY at the earliest; drops old pins."""
        due, dropped = [], False
        for name, pins in self._pins.items():
            for address in [a for a, end in pins.items() if end + PIN_GRACE <= now]:
                del pins[address]
                dropped = True
            if self._due(name) <= now:
                self._asked[name] = now + PIN_RETRY
                due.append(name)
        if dropped:
            self._compile()
        return due

    def deadline(self) -> float | None:
        """When to call names_due next; None without names."""
        return min(map(self._due, self._pins), default=None)

    def _due(self, name: str) -> float:
        return max(self._asked[name], max(self._pins[name].values(), default=0.0))

    @property
    def pins(self) -> Mapping[str, tuple[bytes, ...]]:
        """The addresses each name stands for at the moment."""
        return {name: tuple(pins) for name, pins in self._pins.items()}


def _expand(rules: Sequence[Rule], context: Context) -> tuple[Rule, ...]:
    """Replace the keywords."""
    found: dict[Rule, None] = {}
    for rule in rules:
        if rule.host == DEFAULT:
            found.update((r, None) for r in context.reach if not r.host.startswith("@"))
        elif rule.host != GATEWAY:
            found[rule] = None
    return tuple(found)


def _targets(rules: Iterable[Rule]) -> Iterator[_Target]:
    for rule in rules:
        network = rule.network
        if network is not None:
            low, high = int(network.network_address), int(network.broadcast_address)
            yield _Target(network.max_prefixlen // 8, low, high, rule)


def routes(
    rules: Sequence[Rule] | None,
    context: Context,
    addresses: Mapping[str, Iterable[bytes]] | None = None,
) -> tuple[Network, ...]:
    """The prefixes a device must route into the tunnel: its AllowedIPs.

    Names are routed by the addresses given for them (see Policy.pins), or not at all.
    """
    known = addresses or {}
    networks: list[Network] = list(context.devices)
    networks += [ip_network(address) for address in context.gateway]
    for rule in _expand(rules or (Rule(DEFAULT),), context):
        if rule.network is not None:
            networks.append(rule.network)
        else:
            networks += [ip_network(bytes(address)) for address in known.get(rule.host, ())]
    four = collapse_addresses(n for n in networks if isinstance(n, IPv4Network))
    six = collapse_addresses(n for n in networks if isinstance(n, IPv6Network))
    return (*four, *six)


def is_local(name: str) -> bool:
    """Whether only the local network can have answered for a name."""
    if "." not in name:
        return True
    return any(name.endswith("." + suffix) for suffix in _LOCAL_SUFFIXES)
