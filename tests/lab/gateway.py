"""LoPower as its users run it: a process of its own, spoken to through its command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab.client import wait_for
from tests.lab.namespace import Namespace, stop

LOPOWER = Path(sys.executable).parent / "lopower"
PORT = 51820


class Gateway:
    """`lopower run` inside a namespace, and the commands beside it."""

    def __init__(
        self, namespace: Namespace, data: Path, endpoint: str, *options: str, port: int = PORT
    ) -> None:
        self.namespace = namespace
        self.data = data
        self.port = port
        self.log = data.parent / f"{data.name}.log"
        self.command = [
            *(str(LOPOWER), "run", "--data", str(data), "--listen", str(port)),
            *("--endpoint", f"{endpoint}:{port}", "--backend", "system", "--no-view", *options),
        ]
        self.start()

    def start(self) -> None:
        """Starts the process and waits until it listens."""
        with self.log.open("a") as log:
            self.process = self.namespace.popen(*self.command, stdout=log, stderr=log)
        wait_for(self.listens, "the gateway to listen", 15)

    def listens(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the gateway ended: {self.log.read_text()[-2000:]}")
        with self.namespace.inside():
            tables = [Path("/proc/thread-self/net", name).read_text() for name in ("udp", "udp6")]
        return any(f":{self.port:04X} " in table for table in tables)

    def kill(self) -> None:
        """SIGKILL: no chance to write anything down."""
        self.process.kill()
        self.process.wait()

    def cli(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A `lopower` command beside the running gateway."""
        command = (str(LOPOWER), *arguments, "--data", str(self.data))
        return self.namespace.run(*command, check=check, timeout=20)

    def ask(self, *arguments: str) -> Any:
        """What a command prints with --json."""
        return json.loads(self.cli(*arguments, "--json").stdout)

    def enroll(self, name: str, *options: str) -> dict[str, Any]:
        """Enrols a device and returns what it was given, the profile's text among it."""
        enrolled: dict[str, Any] = self.ask("enroll", name, "--profile", "wg-quick", *options)
        return enrolled

    def device(self, name: str) -> dict[str, Any]:
        """One device as `lopower devices` lists it."""
        return next(device for device in self.ask("devices") if device["name"] == name)

    def close(self) -> None:
        stop(self.process)
