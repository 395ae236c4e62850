"""Names that are answered here: the gateway's own zone, its reverse zones, and special-use names.

Special-use names (RFC 6761, 6303, 6762, 7686, 9462) never leave the gateway: nobody upstream could
know them, and asking would tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from struct import pack

from lopower.dns.cache import FOREVER, Entry
from lopower.dns.wire import (
    NOERROR,
    NXDOMAIN,
    QUESTION_NAME,
    TYPE_A,
    TYPE_AAAA,
    TYPE_NS,
    TYPE_PTR,
    TYPE_SOA,
    Query,
    name_to_wire,
    pointer,
    record,
    suffixes,
)

Network = IPv4Network | IPv6Network
Addresses = tuple[bytes | None, bytes | None]
Records = dict[int, list[bytes]]

LOCAL_TTL = 60

# RFC 6303 §4, and RFC 7793's shared address space left out: a tailnet answers for it.
EMPTY_REVERSE = (
    "0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "192.0.2.0/24", "198.51.100.0/24",
    "203.0.113.0/24", "255.255.255.255/32", "::/128", "::1/128", "fe80::/10", "2001:db8::/32",
)  # fmt: skip
# Also RFC 6303, but a home's own resolver may well know them.
PRIVATE_REVERSE = ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fd00::/8")
EMPTY_NAMES = (
    "local",  # RFC 6762: multicast only
    "invalid",  # RFC 6761
    "test",
    "onion",  # RFC 7686
    "resolver.arpa",  # RFC 9462: no designated resolvers
    "use-application-dns.net",  # the canary: names are resolved here on purpose
)


def reverse_name(address: bytes) -> str:
    return ip_address(address).reverse_pointer


def reverse_zones(network: Network) -> Iterator[str]:
    """The reverse zones that make up a network, cut at octets or nibbles."""
    step, total = (8, 32) if network.version == 4 else (4, 128)
    length = -(-network.prefixlen // step) * step
    for part in network.subnets(new_prefix=length):
        labels = part.network_address.reverse_pointer.split(".")
        yield ".".join(labels[(total - length) // step :])


class Zones:
    """Finds the answer to a question about a name that is served here."""

    __slots__ = ("_empty", "_gateway", "_names", "_networks", "_nothing", "_soa", "_zone", "_zones")

    def __init__(
        self, zone: str, gateway: Addresses, networks: Iterable[Network], *, private_reverse: bool
    ) -> None:
        self._zone = zone.lower().removesuffix(".")
        self._gateway = gateway
        self._networks = tuple(networks)
        mname = name_to_wire(f"gateway.{self._zone}")
        times = pack(">5I", 1, 3600, 1200, 604800, LOCAL_TTL)
        self._soa = mname + name_to_wire(f"hostmaster.{self._zone}") + times
        texts = [self._zone, *(z for network in self._networks for z in reverse_zones(network))]
        self._zones = frozenset(map(name_to_wire, texts))
        private = PRIVATE_REVERSE if private_reverse else ()
        self._empty = frozenset(_empty_zones(private))
        self._nothing: Records = {}
        self._names: dict[bytes, Records] = {}
        self.set_names({})

    def set_names(self, names: Mapping[str, Addresses]) -> None:
        """Replace the names of devices, given without the zone; ValueError names a bad one."""
        found: dict[bytes, Records] = {}
        for name, addresses in (*names.items(), ("gateway", self._gateway)):
            self._enter(found, name, addresses)
        nameserver = name_to_wire(f"gateway.{self._zone}")
        for zone in self._zones:
            apex = found.get(zone, self._nothing)
            found[zone] = {**apex, TYPE_SOA: [self._soa], TYPE_NS: [nameserver]}
        self._names = found

    def add_name(self, name: str, addresses: Addresses) -> None:
        """One more device, or new addresses for it."""
        self._enter(self._names, name, addresses)

    def _enter(self, found: dict[bytes, Records], name: str, addresses: Addresses) -> None:
        owner = name_to_wire(f"{name}.{self._zone}")
        found[owner] = {
            rdtype: [address]
            for rdtype, address in zip((TYPE_A, TYPE_AAAA), addresses, strict=True)
            if address is not None
        }
        entered = [owner]
        for address in filter(None, addresses):
            pointer = name_to_wire(reverse_name(address))
            found[pointer] = {TYPE_PTR: [owner]}
            entered.append(pointer)
        for entry in entered:
            for _, ancestor in suffixes(entry):  # empty non-terminals exist too (RFC 8020)
                found.setdefault(ancestor, self._nothing)

    def find(self, query: Query) -> Entry | None:
        """The answer with authority; None where the name is not ours."""
        for offset, suffix in suffixes(query.name):
            if suffix in self._zones:
                records = self._names.get(query.name)
                if records is None:
                    return self._negative(NXDOMAIN, offset)
                return self._answer(query.type, records, offset)
        return None

    def special(self, query: Query) -> Entry | None:
        """The answer for a special-use name; None where it may be asked upstream."""
        for offset, suffix in suffixes(query.name):
            if suffix == b"\x09localhost\0":
                loopback = {TYPE_A: [b"\x7f\0\0\x01"], TYPE_AAAA: [bytes(15) + b"\x01"]}
                return self._answer(query.type, loopback, offset)
            if suffix in self._empty:
                return self._negative(NXDOMAIN, offset)
        return None

    def _answer(self, rdtype: int, records: Records, zone_offset: int) -> Entry:
        rdatas = records.get(rdtype)
        if not rdatas:
            return self._negative(NOERROR, zone_offset)
        body = b"".join(record(QUESTION_NAME, rdtype, LOCAL_TTL, rdata) for rdata in rdatas)
        return _entry(NOERROR, body, (len(rdatas), 0, 0))

    def _negative(self, rcode: int, zone_offset: int) -> Entry:
        body = record(pointer(12 + zone_offset), TYPE_SOA, LOCAL_TTL, self._soa)
        return _entry(rcode, body, (0, 1, 0))


def _entry(rcode: int, body: bytes, counts: tuple[int, int, int]) -> Entry:
    return Entry(rcode, body, counts, [], lifetime=FOREVER, now=0.0, authoritative=True)


def _empty_zones(private: Iterable[str]) -> Iterator[bytes]:
    yield from map(name_to_wire, EMPTY_NAMES)
    for text in (*EMPTY_REVERSE, *private):
        yield from map(name_to_wire, reverse_zones(ip_network(text)))
