"""What a user can set about the gateway and what the registry remembers of it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from . import addresses
from .addresses import AddressPlan
from .errors import UserError
from .hosts import parse_host_port

DEFAULT_PORT = 51820


@dataclass(frozen=True, slots=True)
class Settings:
    """Command line options and LOPOWER_* variables take precedence over these."""

    listen_port: int = DEFAULT_PORT
    endpoint: str | None = None
    ipv4: bool = True
    ipv4_range: str = addresses.DEFAULT_IPV4
    ipv6_range: str = addresses.DEFAULT_IPV6

    @property
    def plan(self) -> AddressPlan:
        """The address plan for these ranges."""
        return AddressPlan.parse(self.ipv4_range, self.ipv6_range)

    def changed(self, changes: dict[str, Any]) -> Settings:
        """A copy with some values replaced, all of them checked."""
        unknown = set(changes) - {field.name for field in fields(self)}
        if unknown:
            raise UserError(f"There is no setting called '{sorted(unknown)[0]}'.")
        new = replace(self, **changes)
        new.check()
        return new

    def check(self) -> None:
        """UserError when a value cannot work."""
        if not (isinstance(self.listen_port, int) and 1 <= self.listen_port <= 65535):
            raise UserError(f"A port lies between 1 and 65535, not at {self.listen_port}.")
        if self.endpoint is not None:
            parse_host_port(self.endpoint, self.listen_port)
        _ = self.plan

    def as_dict(self) -> dict[str, Any]:
        """The values by name."""
        return asdict(self)
