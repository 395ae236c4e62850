"""Programs nobody here wrote: where they come from, and what to say when they are missing.

Debian's packages are installed where we are root; the others are built into the user's cache.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

from script.environment import apt_install

WIREGUARD_GO = "v0.0.0-20250521234502-f333402bd9cb"
BORINGTUN = "0.7.1"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lopower"

# command -> Debian package
FOR_TESTS = {
    "ip": "iproute2",
    "ping": "iputils-ping",
    "wg": "wireguard-tools",
    "wireguard-go": "wireguard-go",
    "dig": "bind9-dnsutils",
}
FOR_BENCH = {
    **FOR_TESTS,
    "nft": "nftables",
    "iperf3": "iperf3",
    "dnsperf": "dnsperf",
    "ethtool": "ethtool",
}


def prepare(commands: dict[str, str] = FOR_TESTS) -> None:
    """Installs and builds what is missing, as far as this user may; never fails."""
    packages = sorted(commands[command] for command in missing(commands))
    if packages and not apt_install(*packages):
        print("Please install first:  apt-get install", *packages, file=sys.stderr)
    if os.geteuid() == 0:  # nobody else can use them
        current_wireguard_go()
        boringtun()


def missing(commands: Iterable[str]) -> list[str]:
    """The commands among `commands` that this machine lacks."""
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    return [command for command in commands if not shutil.which(command, path=path)]


def debian_wireguard_go() -> str | None:
    """Debian's wireguard-go of 2022: one system call for each packet."""
    return shutil.which("wireguard-go")


def current_wireguard_go() -> str | None:
    """The current wireguard-go, which sends and receives bursts (GSO, GRO)."""
    go = shutil.which("go") or shutil.which("/usr/local/go/bin/go")
    module = f"golang.zx2c4.com/wireguard@{WIREGUARD_GO}"
    command = [go, "install", module] if go else None
    return _built(f"wireguard-go-{WIREGUARD_GO}", "wireguard", command, "GOBIN")


def boringtun() -> str | None:
    """Cloudflare's userspace WireGuard, in Rust."""
    cargo = shutil.which("cargo") or shutil.which(str(Path.home() / ".cargo/bin/cargo"))
    crate = ["boringtun-cli", "--version", BORINGTUN, "--locked"]
    command = [cargo, "install", "--quiet", *crate] if cargo else None
    return _built(f"boringtun-{BORINGTUN}", "bin/boringtun-cli", command, "CARGO_INSTALL_ROOT")


def _built(name: str, binary: str, command: list[str] | None, target: str) -> str | None:
    """The cached program `name`; built once by `command`, told by `target` where to put it."""
    folder = CACHE / name
    if (folder / binary).exists():
        return str(folder / binary)
    if not command:
        return None
    print(f"Building {name} into {folder} (once) ...", file=sys.stderr, flush=True)
    working = CACHE / f"{name}.{os.getpid()}"
    working.mkdir(parents=True)
    environment = {**os.environ, target: str(working)}
    result = subprocess.run(
        ["nice", *command], env=environment, cwd=working, stdin=subprocess.DEVNULL, check=False
    )
    if result.returncode == 0 and not folder.exists():
        working.rename(folder)
    shutil.rmtree(working, ignore_errors=True)
    return str(folder / binary) if (folder / binary).exists() else None
