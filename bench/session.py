"""One gateway under test in a network of its own, with one client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bench import process
from bench.candidates import ROOT, Candidate
from bench.contract import Contract
from tests.lab.client import Client, Implementation, wait_for
from tests.lab.namespace import Namespace
from tests.lab.network import GATEWAY, INNER, INNER6, TARGET, Network

PORT = 51820
LOAD = (sys.executable, "-m", "bench.load")


class Session:
    """A context: inside it the client is connected and the target serves."""

    def __init__(
        self, candidate: Candidate, implementation: Implementation, devices: int = 1
    ) -> None:
        self.candidate = candidate
        self.implementation = implementation
        self.devices = devices
        self._cleanup = ExitStack()

    def __enter__(self) -> Session:
        try:
            self._start()
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    def _start(self) -> None:
        folder = Path(self._cleanup.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        self.network = Network(bridged=False)
        self._cleanup.callback(self.network.close)
        self.namespace = self.network.client()
        for namespace in (self.namespace, self.network.gateway):
            namespace.sysctl("net/ipv4/ip_local_port_range", "1024 65535")
        self._serve()
        self.contract = Contract(folder, GATEWAY, PORT, self.devices, (INNER, INNER6), TARGET)
        self._launch(folder)
        profile = self.contract.profile(1).read_text()
        self.client = Client(self.namespace, profile, self.implementation)
        wait_for(self.reachable, "the first echo through the tunnel", 15)

    def _serve(self) -> None:
        command = (*LOAD, "serve", TARGET)
        server = self.network.target.popen(*command, stdout=subprocess.PIPE, cwd=ROOT)
        assert server.stdout is not None
        server.stdout.readline()

    def _launch(self, folder: Path) -> None:
        log = self._cleanup.enter_context((folder / "gateway.log").open("w"))
        self.gateway = self.network.gateway.popen(
            *self.candidate.command,
            stdout=log,
            stderr=log,
            cwd=ROOT,
            env={**os.environ, **self.contract.environment()},
        )
        try:
            wait_for(self._ready, f"{self.candidate.name} to be ready", 30 + self.devices / 10)
        except Exception as error:
            error.add_note((folder / "gateway.log").read_text()[-2000:])
            raise

    def _ready(self) -> bool:
        if self.gateway.poll() is not None:
            raise RuntimeError(f"{self.candidate.name} ended")
        return self.contract.written()

    def reachable(self) -> bool:
        try:
            with self.namespace.udp(TARGET, 7000, 0.5) as probe:
                probe.send(b"?")
                return probe.recv(1) == b"?"
        except OSError:
            return False

    def cpu(self) -> float:
        return process.cpu_seconds(self.gateway.pid)

    def resident(self) -> int:
        return process.resident(self.gateway.pid)

    def load(self, *arguments: str, timeout: float = 60) -> dict[str, float]:
        """What a program of bench/load.py measured in the client's namespace."""
        output = self.namespace.run(*LOAD, *arguments, timeout=timeout, cwd=ROOT).stdout
        result: dict[str, float] = json.loads(output)
        return result

    def hold(self, kind: str, count: int) -> tuple[subprocess.Popen[Any], dict[str, Any]]:
        """Opens `count` idle flows; they end with the process."""
        command = (*LOAD, f"hold-{kind}", TARGET, str(count))
        holder = self.namespace.popen(
            *command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert holder.stdout is not None
        return holder, json.loads(holder.stdout.readline())

    @property
    def target(self) -> Namespace:
        return self.network.target
