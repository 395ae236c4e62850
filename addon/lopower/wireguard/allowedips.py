"""Cryptokey routing (section 2): which peer an inner address belongs to, by longest prefix."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Generic, TypeVar

T = TypeVar("T")

# An inner prefix: text, a network, or a packed address and its prefix length.
Prefix = str | IPv4Network | IPv6Network | tuple[bytes, int]

# Answers kept ready; whoever fills it with made-up addresses only empties it.
MAX_CACHED = 8192


def parse_prefix(prefix: Prefix) -> tuple[int, int, int]:
    """The width in bits of the family, the prefix length, and the network as a number.

    Host bits are dropped, as wg(8) does. Raises ValueError for what is no prefix.
    """
    if isinstance(prefix, tuple):
        address, length = prefix
        width = 8 * len(address)
        if width not in (32, 128) or not 0 <= length <= width:
            raise ValueError(f"not an IP prefix: {address.hex()}/{length}")
        return width, length, int.from_bytes(address) >> (width - length)
    network = ip_network(prefix, strict=False)
    width, length = network.max_prefixlen, network.prefixlen
    return width, length, int(network.network_address) >> (width - length)


def _network(width: int, length: int, number: int) -> IPv4Network | IPv6Network:
    address = number << (width - length)
    return IPv4Network((address, length)) if width == 32 else IPv6Network((address, length))


class AllowedIps(Generic[T]):
    """A table per family and prefix length; `cache` holds answers by packed address."""

    __slots__ = ("_tables", "cache")

    def __init__(self) -> None:
        # width of the family -> (bits after the prefix, networks), longest prefix first
        self._tables: dict[int, list[tuple[int, dict[int, T]]]] = {32: [], 128: []}
        self.cache: dict[bytes, T | None] = {}

    def insert(self, prefix: Prefix, owner: T) -> None:
        """Give a prefix to an owner, taking it from whoever had it."""
        width, length, number = parse_prefix(prefix)
        self._table(width, width - length)[number] = owner
        self.cache.clear()

    def remove(self, prefix: Prefix, owner: T) -> None:
        """Take a prefix away from its owner."""
        width, length, number = parse_prefix(prefix)
        table = self._table(width, width - length)
        if table.get(number) is owner:
            del table[number]
        self._forget_empty()

    def remove_owner(self, owner: T) -> None:
        """Take away all that belongs to an owner."""
        for tables in self._tables.values():
            for _, table in tables:
                for number in [number for number, other in table.items() if other is owner]:
                    del table[number]
        self._forget_empty()

    def lookup(self, address: bytes) -> T | None:
        """The owner of the longest prefix that holds a packed address."""
        if address in self.cache:
            return self.cache[address]
        if len(self.cache) >= MAX_CACHED:
            self.cache.clear()
        found = self.cache[address] = self._search(address)
        return found

    def prefixes(self, owner: T) -> Iterator[IPv4Network | IPv6Network]:
        """All that belongs to an owner, longest prefixes first."""
        for width, tables in self._tables.items():
            for shift, table in tables:
                for number, other in table.items():
                    if other is owner:
                        yield _network(width, width - shift, number)

    def _search(self, address: bytes) -> T | None:
        number = int.from_bytes(address)
        for shift, table in self._tables.get(8 * len(address), ()):
            owner = table.get(number >> shift)
            if owner is not None:
                return owner
        return None

    def _table(self, width: int, shift: int) -> dict[int, T]:
        tables = self._tables[width]
        for known, table in tables:
            if known == shift:
                return table
        fresh: dict[int, T] = {}
        tables.append((shift, fresh))
        tables.sort(key=lambda entry: entry[0])
        return fresh

    def _forget_empty(self) -> None:
        for width, tables in self._tables.items():
            self._tables[width] = [entry for entry in tables if entry[1]]
        self.cache.clear()
