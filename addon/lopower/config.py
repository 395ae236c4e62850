"""How one run of the gateway is configured: options, LOPOWER_* variables, remembered settings."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from lopower.devices.errors import UserError
from lopower.devices.hosts import HostPort, guess_host, parse_host_port, parse_port, valid_host
from lopower.devices.names import show
from lopower.devices.settings import DEFAULT_PORT, Settings

Backend = Literal["system", "tailscale"]
ANY = ""


@dataclass(frozen=True, slots=True)
class RunConfig:
    """Everything `lopower run` decides; the gateway reads its options from nowhere else.

    `listen`: address and UDP port; the address `""` means all of them, IPv4 and IPv6; port 0 any.
    `endpoint`: where clients find the gateway as the user said it, None: to be guessed.
    """

    data: Path
    listen: tuple[str, int] = (ANY, DEFAULT_PORT)
    endpoint: str | None = None
    backend: str = "system"
    allow: list[str] = field(default_factory=list)
    ipv4: bool = True
    view: bool = False
    pcap: Path | None = None
    upstreams: list[str] = field(default_factory=list)
    mtu: int = 1280
    log_level: str = "info"

    def to_json(self) -> str:
        """For the program that goes on with it."""
        values = asdict(self) | {"data": str(self.data)}
        return json.dumps(values | {"pcap": str(self.pcap) if self.pcap else None})

    @classmethod
    def from_json(cls, text: str) -> RunConfig:
        """What `to_json` wrote."""
        values = json.loads(text)
        values |= {"data": Path(values["data"]), "listen": tuple(values["listen"])}
        return cls(**values | {"pcap": Path(values["pcap"]) if values["pcap"] else None})

    def client_endpoint(self, port: int) -> HostPort | None:
        """Where clients find a gateway that is bound to `port`; None when nobody can tell."""
        host = self.endpoint or _reachable(self.listen[0]) or guess_host()
        return None if host is None else parse_host_port(host, port)


def _reachable(address: str) -> str | None:
    """A bound address, unless it stands for all."""
    return None if address in (ANY, "0.0.0.0", "::") else address  # noqa: S104 compared only


def default_data() -> Path:
    """$XDG_STATE_HOME/lopower, or ~/.local/state/lopower."""
    base = os.environ.get("XDG_STATE_HOME", "")
    state = Path(base) if base.startswith("/") else Path.home() / ".local" / "state"
    return state / "lopower"


def parse_listen(text: str) -> tuple[str, int]:
    """[ADDR:]PORT, with brackets around an IPv6 address."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return ANY, parse_port(text, lowest=0)
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    if not colon or HostPort(host, 0).version is None or not valid_host(host):
        raise UserError(f"{show(text)} is not PORT, ADDRESS:PORT or [IPV6-ADDRESS]:PORT.")
    return host, parse_port(port, lowest=0)


def remembered(settings: Settings, config: RunConfig) -> dict[str, object]:
    """What of a run's options later commands need to know, as far as it differs."""
    wanted: dict[str, object] = {"ipv4": config.ipv4, "endpoint": config.endpoint}
    if config.listen[1]:
        wanted["listen_port"] = config.listen[1]
    stored = settings.as_dict()
    return {name: value for name, value in wanted.items() if stored[name] != value}
