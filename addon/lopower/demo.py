"""`lopower demo`: a gateway and a simulated device on loopback, through a real UDP socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json as json_module
import logging
import os
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any, NamedTuple

import dns.message
import dns.rdatatype
from rich.console import Console
from rich.table import Table

from lopower.config import RunConfig
from lopower.devices.profiles.reader import read
from lopower.devices.registry import Registry
from lopower.endpoint import Endpoint
from lopower.gateway import Gateway
from lopower.netstack.events import Address
from lopower.station import Membership, Station

CHECK_TIMEOUT = 3.0  # seconds for one check: together they stay well under ten
LOOPBACK = "127.0.0.1"
TRANSFER = 16 << 20


class Check(NamedTuple):
    """One thing that was tried."""

    name: str
    ok: bool
    ms: float
    note: str


def run(json: bool) -> int:
    """Show what works; the exit code is 0 if everything does."""
    logging.getLogger("lopower").setLevel(logging.ERROR)
    checks = asyncio.run(_demo())
    ok = all(check.ok for check in checks)
    if json:
        listed = [check._asdict() for check in checks]
        print(json_module.dumps({"ok": ok, "checks": listed}))
    else:
        _print(checks, ok)
    return 0 if ok else 1


def _print(checks: list[Check], ok: bool) -> None:
    table = Table(title="A gateway and a simulated device, here on this machine")
    for column, justify in (("check", "left"), ("", "left"), ("ms", "right"), ("", "left")):
        table.add_column(column, justify="right" if justify == "right" else "left")
    for check in checks:
        mark = "[green]✓[/]" if check.ok else "[red]✗[/]"
        table.add_row(check.name, mark, f"{check.ms:.1f}", check.note)
    console = Console()
    console.print(table)
    console.print("Everything works." if ok else "[red]Something does not work.[/]")


async def _demo() -> list[Check]:
    checks: list[Check] = []
    with tempfile.TemporaryDirectory(prefix="lopower-demo-") as folder:
        async with _targets() as (tcp, udp, closed), _gateway(Path(folder), tcp, udp) as gateway:
            station = Station(asyncio.get_running_loop(), _enrol(gateway))
            try:
                for name, act in _plan(gateway, station, tcp, udp, closed):
                    checks.append(await _try(name, act))
                    if len(checks) == 1 and not checks[0].ok:
                        break
            finally:
                station.close()
    return checks


async def _try(name: str, act: Callable[[], Awaitable[str]]) -> Check:
    start = time.perf_counter()
    try:
        async with asyncio.timeout(CHECK_TIMEOUT):
            note, ok = await act(), True
    except TimeoutError:
        note, ok = "no answer", False
    except (OSError, ValueError) as error:
        note, ok = str(error), False
    return Check(name, ok, round((time.perf_counter() - start) * 1000, 2), note)


def _enrol(gateway: Gateway) -> Membership:
    """Enrol a device and read its file as its client would."""
    enrolled = gateway.admin.call("enroll", {"name": "demo", "profile": "wg-quick"})
    config = read(enrolled["profile"])
    assert config.endpoint is not None
    host, port = config.endpoint
    return Membership(
        config.private_key,
        config.preshared_key,
        config.public_key,
        Endpoint(host, port),
        tuple(ip_interface(address).packed for address in config.addresses),
    )


@asynccontextmanager
async def _gateway(folder: Path, tcp: int, udp: int) -> AsyncIterator[Gateway]:
    config = RunConfig(
        data=folder,
        listen=(LOOPBACK, 0),
        allow=[f"{LOOPBACK}:{tcp}/tcp", f"{LOOPBACK}:{udp}/udp"],
        view=False,
    )
    with Registry(folder) as registry:
        gateway = Gateway(config, registry, asyncio.get_running_loop())
        await gateway.start()
        try:
            yield gateway
        finally:
            await gateway.stop()


@asynccontextmanager
async def _targets() -> AsyncIterator[tuple[int, int, int]]:
    """A TCP and a UDP echo on loopback, and a TCP port that is closed."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    class Echo(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, source: Any) -> None:
            self.transport.sendto(data, source)

    loop = asyncio.get_running_loop()
    server = await asyncio.start_server(echo, LOOPBACK, 0)
    unused = await asyncio.start_server(echo, LOOPBACK, 0)
    closed = unused.sockets[0].getsockname()[1]
    unused.close()
    transport, _ = await loop.create_datagram_endpoint(Echo, (LOOPBACK, 0))
    try:
        tcp = server.sockets[0].getsockname()[1]
        yield tcp, transport.get_extra_info("sockname")[1], closed
    finally:
        transport.close()
        server.close()


def _plan(
    gateway: Gateway, station: Station, tcp: int, udp: int, closed: int
) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
    four, six = gateway.addresses
    loopback = ip_address(LOOPBACK).packed
    return [
        ("handshake", lambda: _handshake(station)),
        ("ping, IPv4", lambda: _ping(station, four)),
        ("ping, IPv6", lambda: _ping(station, six)),
        ("DNS over UDP", lambda: _ask(station, (four, 53), gateway.gateway_name)),
        ("DNS over TCP", lambda: _ask_stream(station, (six, 53), gateway.gateway_name)),
        ("UDP there and back", lambda: _udp(station, (loopback, udp))),
        ("UDP of 8,000 bytes", lambda: _udp(station, (loopback, udp), 8000)),
        ("TCP there and back", lambda: _tcp(station, (loopback, tcp), 1000)),
        ("TCP, 16 MB each way", lambda: _tcp(station, (loopback, tcp), TRANSFER)),
        ("a closed port is refused", lambda: _refused(station, (loopback, closed))),
        ("the page for devices", lambda: _page(station, (four, 80))),
    ]


async def _handshake(station: Station) -> str:
    await station.connect()
    return "a session with fresh keys"


async def _ping(station: Station, address: bytes) -> str:
    await station.ping(address)
    return str(ip_address(address))


def _answer(wire: bytes) -> str:
    answer = dns.message.from_wire(wire)
    return ", ".join(str(item) for rrset in answer.answer for item in rrset) or "no records"


async def _ask(station: Station, server: Address, name: str) -> str:
    query = dns.message.make_query(name, dns.rdatatype.A)
    return f"{name} is {_answer(await station.exchange(server, query.to_wire()))}"


async def _ask_stream(station: Station, server: Address, name: str) -> str:
    query = dns.message.make_query(name, dns.rdatatype.AAAA).to_wire()
    stream = await station.open(server)
    await stream.write(len(query).to_bytes(2) + query)
    received = b""
    while len(received) < 2 or len(received) < 2 + int.from_bytes(received[:2]):
        received += await stream.read()
    stream.close()
    return f"{name} is {_answer(received[2:])}"


async def _udp(station: Station, target: Address, size: int = 64) -> str:
    payload = os.urandom(size)
    if await station.exchange(target, payload) != payload:
        raise ValueError("another payload came back")
    return f"{size:,} bytes"


async def _tcp(station: Station, target: Address, size: int) -> str:
    payload = os.urandom(size)
    start = time.perf_counter()
    stream = await station.open(target)
    opened = time.perf_counter() - start

    async def send() -> None:
        await stream.write(payload)
        stream.close()

    sending = asyncio.create_task(send())
    digest, got = hashlib.sha256(), 0
    while data := await stream.read():
        digest.update(data)
        got += len(data)
    await sending
    if digest.digest() != hashlib.sha256(payload).digest():
        raise ValueError(f"{got:,} bytes came back, and not the same")
    if size < TRANSFER:
        return f"connected in {opened * 1000:.1f} ms"
    rate = 2 * size * 8 / (time.perf_counter() - start) / 1e6
    return f"same SHA-256, {rate:,.0f} Mbit/s"


async def _refused(station: Station, target: Address) -> str:
    try:
        await station.open(target)
    except ConnectionError:
        return "at once"
    raise ValueError("it was opened")


async def _page(station: Station, target: Address) -> str:
    stream = await station.open(target)
    host = ip_address(target[0])
    await stream.write(f"GET /who HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    received = b""
    while data := await stream.read():
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    if b" 200 " not in head.splitlines()[0]:
        raise ValueError(head.splitlines()[0].decode())
    return f"it knows {json_module.loads(body)['name']}"
