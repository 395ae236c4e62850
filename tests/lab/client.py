"""A real WireGuard client, configured with nothing but the file a user would get."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any, Literal

from tests.lab import peers
from tests.lab.namespace import Namespace, stop, unique

Implementation = Literal["debian", "current", "boringtun"]
# What wg-quick understands and wg does not.
QUICK = {"address", "dns", "mtu", "table", "preup", "postup", "predown", "postdown", "saveconfig"}


def command(implementation: Implementation, device: str) -> list[str] | None:
    """How to start `implementation` for `device` in the foreground; None where it is missing."""
    programs: dict[Implementation, tuple[str | None, list[str]]] = {
        "debian": (peers.debian_wireguard_go(), ["-f", device]),
        "current": (peers.current_wireguard_go(), ["-f", device]),
        "boringtun": (peers.boringtun(), ["--disable-drop-privileges", "-f", device]),
    }
    program, arguments = programs[implementation]
    return [program, *arguments] if program else None


class Profile:
    """A wg-quick file, read as wg-quick reads it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.values: dict[str, list[str]] = {}
        kept = []
        for line in text.splitlines():
            key, _, value = line.split("#")[0].partition("=")
            name = key.strip().lower()
            if value:
                items = [item.strip() for item in value.split(",")]
                self.values.setdefault(name, []).extend(items)
            if name not in QUICK:
                kept.append(line)
        self.stripped = "\n".join(kept) + "\n"

    @property
    def mtu(self) -> str:
        return self.values.get("mtu", ["1420"])[0]

    @property
    def dns(self) -> list[str]:
        return self.values.get("dns", [])


class Client:
    """A running client: its interface carries the profile's addresses and routes."""

    def __init__(
        self, namespace: Namespace, profile: str, implementation: Implementation = "debian"
    ) -> None:
        self.namespace = namespace
        self.profile = Profile(profile)
        self.device = unique("lp")
        started = command(implementation, self.device)
        if started is None:
            raise FileNotFoundError(implementation)
        environment = {**os.environ, "WG_SUDO": "1", "LOG_LEVEL": "error", "GOMAXPROCS": "2"}
        self.process = namespace.popen(
            *started, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        self._configure()

    def _configure(self) -> None:
        wait_for(Path("/run/wireguard", f"{self.device}.sock").exists, "the client's socket")
        self.set_configuration(self.profile.stripped)
        self.namespace.ip("link", "set", self.device, "mtu", self.profile.mtu)
        self.namespace.address(self.device, *self.profile.values["address"])
        for prefix in self.profile.values["allowedips"]:
            self.namespace.ip("route", "replace", prefix, "dev", self.device)

    def set_configuration(self, text: str) -> None:
        """`wg setconf` with `text`."""
        with tempfile.NamedTemporaryFile("w", suffix=".conf") as file:
            file.write(text)
            file.flush()
            self.wg("setconf", self.device, file.name)

    def wg(self, *arguments: str) -> str:
        return self.namespace.run("wg", *arguments).stdout

    def set(self, *settings: str) -> None:
        """`wg set` on this interface."""
        self.wg("set", self.device, *settings)

    def last_handshake(self) -> int:
        """When the last handshake was, in seconds since 1970; 0 for never."""
        return int(self.wg("show", self.device, "latest-handshakes").split()[-1])

    def sent(self) -> int:
        """Bytes sent to the gateway."""
        return int(self.wg("show", self.device, "transfer").split()[-1])

    def close(self) -> None:
        stop(self.process)

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def wait_for(condition: Any, what: str, seconds: float = 10, pause: float = 0.02) -> Any:
    """Waits until `condition()` is true and returns what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds} s for {what}")
        time.sleep(pause)
    return value
