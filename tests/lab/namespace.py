"""Network namespaces: small machines of their own, joined by virtual cables."""

from __future__ import annotations

import ctypes
import itertools
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

NETNS = Path("/run/netns")
PREFIX = "lopower-"
CLONE_NEWNET = 0x40000000

Result = subprocess.CompletedProcess[str]
_serial = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


def why_not() -> str | None:
    """Why this machine cannot have network namespaces; None when it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces"
    if not Path("/dev/net/tun").exists():
        return "needs /dev/net/tun, for the WireGuard clients"
    result = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return None if result.returncode == 0 else "needs ip netns (Debian package iproute2)"


def unique(stem: str) -> str:
    """An interface name nobody else on this machine has: WireGuard's sockets share one folder."""
    return f"{stem}{os.getpid() % 100000}x{next(_serial)}"


def sweep() -> None:
    """Removes namespaces of runs that died before they could; their processes died with them."""
    for path in NETNS.glob(f"{PREFIX}*"):
        owner = path.name.removeprefix(PREFIX).split("-")[0]
        if owner.isdigit() and not Path("/proc", owner).exists():
            subprocess.run(["ip", "netns", "delete", path.name], check=False)


class Namespace:
    """One network namespace and the processes started in it; `close()` ends both."""

    def __init__(self, role: str) -> None:
        self.name = f"{PREFIX}{os.getpid()}-{next(_serial)}-{role}"
        self._processes: list[subprocess.Popen[Any]] = []
        _run("ip", "netns", "add", self.name)
        self.ip("link", "set", "lo", "up")
        # Addresses are usable at once, not after a second of duplicate address detection.
        for name in ("all", "default"):
            self.sysctl(f"net/ipv6/conf/{name}/accept_dad", "0")

    def command(self, *command: str | Path) -> list[str]:
        """`command` as it must be called from outside; it dies with whoever starts it."""
        inside = ["setpriv", "--pdeathsig", "KILL", "ip", "netns", "exec", self.name]
        return [*inside, *map(str, command)]

    def run(
        self, *command: str | Path, check: bool = True, timeout: float = 30, **options: Any
    ) -> Result:
        """Runs `command` inside and waits for it; its output is captured as text."""
        return _run(*self.command(*command), check=check, timeout=timeout, **options)

    def popen(self, *command: str | Path, **options: Any) -> subprocess.Popen[Any]:
        """Starts `command` inside; `close()` ends it."""
        options = {"stdin": subprocess.DEVNULL, **options}
        process = subprocess.Popen(self.command(*command), **options)
        self._processes.append(process)
        return process

    def ip(self, *arguments: str | Path) -> str:
        return _run("ip", "-netns", self.name, *arguments).stdout

    def address(self, device: str, *addresses: str) -> None:
        """Gives `device` its addresses and switches it on."""
        for address in addresses:
            self.ip(
                "address", "add", address, "dev", device, *(["nodad"] if ":" in address else [])
            )
        self.ip("link", "set", device, "up")

    def sysctl(self, name: str, value: str) -> None:
        with self.inside():
            Path("/proc/sys", name).write_text(value)

    @contextmanager
    def inside(self) -> Iterator[None]:
        """The calling thread is in this namespace; a socket made there stays there for good."""
        with open("/proc/thread-self/ns/net") as home, open(NETNS / self.name) as there:
            _enter(there.fileno())
            try:
                yield
            finally:
                _enter(home.fileno())

    def open_socket(
        self, kind: Literal["tcp", "udp"], address: str = "", timeout: float | None = 10
    ) -> socket.socket:
        """A socket of the family of `address` that lives in this namespace."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        number = socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM
        with self.inside():
            made = socket.socket(family, number)
        made.settimeout(timeout)
        return made

    def connect(self, address: str, port: int, timeout: float = 10) -> socket.socket:
        """A TCP connection from here to `address`."""
        made = self.open_socket("tcp", address, timeout)
        try:
            made.connect((address, port))
        except BaseException:
            made.close()
            raise
        return made

    def udp(self, address: str, port: int, timeout: float = 5) -> socket.socket:
        """A UDP socket from here, connected to `address`, so that ICMP errors are reported."""
        made = self.open_socket("udp", address, timeout)
        made.connect((address, port))
        return made

    def close(self) -> None:
        for process in self._processes:
            stop(process)
        subprocess.run(["ip", "netns", "delete", self.name], check=False)


def stop(process: subprocess.Popen[Any], patience: float = 5) -> None:
    """Ends one process that we started: politely first."""
    with suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(patience)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def cable(one: Namespace, its_end: str, other: Namespace, other_end: str) -> None:
    """A virtual cable between two namespaces; it passes bursts whole (GRO), as a real card does."""
    peer = ["peer", "name", other_end, "netns", other.name]
    one.ip("link", "add", its_end, "type", "veth", *peer)
    for namespace, device in ((one, its_end), (other, other_end)):
        namespace.run("ethtool", "-K", device, "gro", "on", check=False)


def _run(*command: str | Path, check: bool = True, timeout: float = 30, **options: Any) -> Result:
    options = {"text": True, "capture_output": True, "stdin": subprocess.DEVNULL, **options}
    if "input" in options:
        del options["stdin"]
    result: Result = subprocess.run([*map(str, command)], timeout=timeout, check=False, **options)
    if check and result.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))}: {result.stdout}{result.stderr}")
    return result


def _enter(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
