"""The gateways that are measured."""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.gateways import mitmproxy
from tests.lab import peers
from tests.lab.client import Implementation, command

ROOT = Path(__file__).resolve().parent.parent
BOTH: tuple[Implementation, ...] = ("current", "debian")


@dataclass(frozen=True)
class Candidate:
    """A gateway: how it starts, and the clients it is measured with."""

    name: str
    command: tuple[str, ...]
    clients: tuple[Implementation, ...] = BOTH
    scale: bool = True  # whether it is measured with many devices and flows

    @classmethod
    def parse(cls, text: str) -> Candidate:
        """NAME=COMMAND, as on the command line."""
        name, equals, start = text.partition("=")
        if not (name and equals and start):
            raise ValueError(f"{text!r} is not NAME=COMMAND")
        return cls(name, tuple(shlex.split(start)))


def module(name: str, *arguments: str, python: str = sys.executable) -> tuple[str, ...]:
    return (python, "-m", f"bench.gateways.{name}", *arguments)


def known() -> tuple[list[Candidate], list[str]]:
    """The candidates this machine can run, and what to say about those it cannot."""
    found, missing = [Candidate("lopower", module("lopower"))], []
    if command("current", ""):
        found.append(Candidate("kernel", module("kernel", "current")))
    else:
        missing.append("kernel: needs Go, to build the current wireguard-go")
    found.append(Candidate("kernel-debian", module("kernel", "debian"), ("debian",), scale=False))
    if python := mitmproxy.install(peers.CACHE):
        start = module("mitmproxy", python=str(python))
        found.append(Candidate("mitmproxy", start, ("debian",), scale=False))
    else:
        missing.append("mitmproxy: no wheel of mitmproxy_rs for this Python")
    return found, missing
