"""`lopower doctor`: what usually goes wrong, looked at one by one, with what to do about it."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from lopower.devices.errors import UserError
from lopower.devices.hosts import HostPort, guess_host, parse_host_port
from lopower.devices.registry import FILE, check_file

State = Literal["ok", "warn", "fail"]
Json = Mapping[str, Any]

# The oldest date a clock can truly show: this program did not exist before.
EARLIEST = 1_767_225_600  # 2026-01-01
# A file from the future by more than this means that the clock went back.
FUTURE = 60.0
# A burst of a window's worth of datagrams has to fit; Linux's default of 208 kB does not hold it.
BUFFER = 1 << 20
# A device's clock off by more than this has trouble with handshakes after a restart.
CLOCK_OFFSET = 120.0
STA_UNSYNC = 0x40


@dataclass(frozen=True, slots=True)
class Check:
    """One finding: what was looked at, how it is, and what to do if it is not well."""

    name: str
    state: State
    sentence: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Situation:
    """What the checks look at; `status` is empty when no gateway runs."""

    data: Path
    port: int
    endpoint: str | None
    status: Json
    devices: Sequence[Json] = ()
    knocks: Sequence[Json] = ()

    @property
    def running(self) -> bool:
        """Whether a gateway answered."""
        return bool(self.status)


def examine(situation: Situation) -> list[Check]:
    """Run every check; one that breaks is a finding itself."""
    return [_guarded(check, situation) for check in CHECKS]


def _guarded(check: Callable[[Situation], Check], situation: Situation) -> Check:
    try:
        return check(situation)
    except OSError as error:
        name = check.__name__.replace("_", "-")
        return Check(name, "warn", f"This could not be looked at: {error.strerror or error}.")


def port(situation: Situation) -> Check:
    """Whether the UDP port is ours, or free."""
    number = situation.port
    if situation.running:
        return Check("port", "ok", f"The gateway listens on UDP port {number}.")
    try:
        _bind(number)
    except PermissionError:
        return Check(
            "port",
            "fail",
            f"UDP port {number} needs more privileges than this user has.",
            "Choose a port from 1024 up with --listen.",
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        holder = port_holder(number)
        return Check(
            "port",
            "fail",
            f"UDP port {number} is taken" + (f" by {holder}." if holder else "."),
            "Stop that program, or choose another port with --listen.",
        )
    return Check("port", "ok", f"UDP port {number} is free.")


def _bind(number: int) -> None:
    for family, address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):  # noqa: S104
        try:
            probe = socket.socket(family, socket.SOCK_DGRAM)
        except OSError:
            continue  # no IPv6 here
        with probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                probe.bind((address, number))
            except OSError as error:
                if error.errno != errno.EADDRNOTAVAIL:
                    raise


def port_holder(number: int) -> str | None:
    """The program that holds a UDP port, as far as this user may see."""
    inodes = set(_port_inodes(number))
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            for link in (process / "fd").iterdir():
                if inodes and os.readlink(link) in inodes:
                    return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return None


def _port_inodes(number: int) -> Iterator[str]:
    for table in ("udp", "udp6"):
        with suppress(OSError):
            for line in Path("/proc/net", table).read_text().splitlines()[1:]:
                fields = line.split()
                if int(fields[1].rpartition(":")[2], 16) == number:
                    yield f"socket:[{fields[9]}]"


def endpoint(situation: Situation) -> Check:
    """Whether devices can find the gateway where their files say."""
    text = situation.endpoint or guess_host()
    if text is None:
        return Check(
            "endpoint",
            "fail",
            "This machine has no address that devices could reach.",
            "Connect it to a network, or give its address with --endpoint.",
        )
    where = parse_host_port(text, situation.port)
    address = _resolve(where)
    if address is None:
        return Check(
            "endpoint",
            "fail",
            f"The name {where.host} cannot be resolved.",
            "Correct it with --endpoint, or give an address.",
        )
    return _reachable(where, address, guessed=situation.endpoint is None)


def _resolve(where: HostPort) -> str | None:
    try:
        found = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_DGRAM)
    except OSError:
        return None
    return str(found[0][4][0])


def _reachable(where: HostPort, address: str, *, guessed: bool) -> Check:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        if probe.connect_ex((address, where.port)):
            return Check(
                "endpoint",
                "fail",
                f"This machine has no route to its own endpoint {where}.",
                "Check the address given with --endpoint and the network.",
            )
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return Check(
                "endpoint",
                "warn",
                f"The endpoint {where} is not an address of this machine.",
                f"This is right if a router forwards UDP port {where.port} to it.",
            )
    said = "guessed from the default route" if guessed else "an address of this machine"
    return Check("endpoint", "ok", f"Devices are told {where}, {said}.")


def clock(situation: Situation) -> Check:
    """Whether this machine's clock can be trusted."""
    now = time.time()
    if now < EARLIEST:
        year = time.gmtime(now).tm_year
        return Check("clock", "fail", f"The clock shows the year {year}.", "Set it, best with NTP.")
    path = situation.data / FILE
    ahead = path.stat().st_mtime - now if path.exists() else 0.0
    if ahead > FUTURE:
        return Check(
            "clock",
            "fail",
            f"The registry was written {ahead:.0f} s in the future: the clock has gone back.",
            "Set it, best with NTP.",
        )
    if _unsynchronised():
        return Check(
            "clock",
            "warn",
            "The system does not say that its clock is synchronised.",
            "Switch on NTP, for instance with 'timedatectl set-ntp true'.",
        )
    return Check("clock", "ok", "The clock is right.")


class _Timex(ctypes.Structure):
    """The start of the kernel's struct timex; the rest is room for what it writes."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("rest", ctypes.c_char * 512),
    )


def _unsynchronised() -> bool:
    """The kernel's own flag; False where it cannot be read."""
    timex = _Timex(modes=0)  # look only
    try:
        ctypes.CDLL(None).adjtimex(ctypes.byref(timex))
    except (AttributeError, OSError):
        return False
    return bool(timex.status & STA_UNSYNC)


def buffers(situation: Situation) -> Check:
    """Whether the kernel lets a UDP socket hold a burst."""
    granted = situation.status.get("receive_buffer")
    limit = int(Path("/proc/sys/net/core/rmem_max").read_text())
    if limit >= BUFFER or (isinstance(granted, int) and granted >= BUFFER):
        return Check("buffers", "ok", "UDP buffers are large enough.")
    return Check(
        "buffers",
        "warn",
        f"UDP receive buffers are limited to {limit // 1024} kB; fast downloads may lose packets.",
        "Run 'sysctl -w net.core.rmem_max=4194304' and keep it in /etc/sysctl.d.",
    )


def registry(situation: Situation) -> Check:
    """Whether the registry is sound; it is only read."""
    path = situation.data / FILE
    if not path.exists():
        return Check("registry", "ok", f"There is no registry in {situation.data} yet.")
    try:
        check_file(path)
    except UserError as error:
        return Check("registry", "fail", str(error), "Restore a backup or update LoPower.")
    return Check("registry", "ok", "The registry is sound.")


def permissions(situation: Situation) -> Check:
    """Whether only the owner can read the keys."""
    data, path = situation.data, situation.data / FILE
    if not data.exists():
        return Check("permissions", "ok", f"{data} will be made for its owner only.")
    if not os.access(data, os.W_OK | os.X_OK):
        return Check(
            "permissions", "fail", f"{data} cannot be written.", f"Give {data} to this user."
        )
    if path.exists() and stat.S_IMODE(path.stat().st_mode) & 0o077:
        return Check(
            "permissions",
            "fail",
            f"Other users can read the keys in {path}.",
            f"Run 'chmod 600 {path}'.",
        )
    if stat.S_IMODE(data.stat().st_mode) & 0o077:
        return Check(
            "permissions", "warn", f"Other users can look into {data}.", f"Run 'chmod 700 {data}'."
        )
    return Check("permissions", "ok", f"Only its owner can look into {data}.")


def ipv6(situation: Situation) -> Check:
    """Whether devices and the tailnet can be reached over IPv6."""
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return Check(
            "ipv6",
            "warn",
            "This machine has IPv6 switched off: devices cannot connect over it from outside.",
            "It still works inside the tunnel; nothing needs to be done.",
        )
    return Check("ipv6", "ok", "IPv6 is available.")


def knocks(situation: Situation) -> Check:
    """Whether somebody tries to come in with wrong keys."""
    if not situation.knocks:
        return Check("keys", "ok", "Nobody has knocked with a wrong key.")
    newest = situation.knocks[0]
    source = newest["source"]
    if newest["kind"] == "wrong server key":
        return Check(
            "keys",
            "fail",
            f"{source} uses another server key than this gateway's: its file is out of date.",
            "Give the device a new file with 'lopower rotate NAME'.",
        )
    return Check(
        "keys",
        "warn",
        f"{source} knocks with a public key that is not enrolled here.",
        "Enrol the device, or see whether it was revoked or disabled.",
    )


def handshakes(situation: Situation) -> Check:
    """Whether devices answer."""
    silent = [d["name"] for d in situation.devices if d.get("unanswered_since")]
    if not silent:
        return Check("handshakes", "ok", "No device leaves a handshake unanswered.")
    return Check(
        "handshakes",
        "warn",
        f"No answer to handshakes from: {', '.join(silent[:5])}{' …' if silent[5:] else ''}.",
        "Check that they have power and network, and that UDP is let through both ways.",
    )


def device_clocks(situation: Situation) -> Check:
    """Whether the devices' clocks are right."""
    wrong = [
        f"{device['name']} ({device['clock_offset']:+.0f} s)"
        for device in situation.devices
        if abs(device.get("clock_offset") or 0.0) > CLOCK_OFFSET
    ]
    if not wrong:
        return Check("device-clocks", "ok", "No device's clock is far off.")
    return Check(
        "device-clocks",
        "warn",
        f"Clocks are far off: {', '.join(wrong[:5])}{' …' if wrong[5:] else ''}.",
        "Give the device an SNTP server that it reaches outside the tunnel.",
    )


CHECKS: tuple[Callable[[Situation], Check], ...] = (
    registry,
    permissions,
    port,
    endpoint,
    clock,
    buffers,
    ipv6,
    knocks,
    handshakes,
    device_clocks,
)
