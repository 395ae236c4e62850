"""A simulated device: the same cores in the initiator's role, behind a UDP socket of its own."""

from __future__ import annotations

import asyncio
import os
import time
from typing import NamedTuple

from lopower.endpoint import Endpoint
from lopower.netstack import icmp
from lopower.netstack.events import Address, UdpDatagram
from lopower.netstack.stack import Stack
from lopower.netstack.tcp.connection import TcpConnection
from lopower.shell.engine import Engine
from lopower.shell.outer import OuterSocket
from lopower.wireguard import HandshakeCompleted, Interface, Peer

KEEPALIVE = 25.0
FIRST_PORT = 49152


class Membership(NamedTuple):
    """What a client's file says."""

    private_key: bytes
    preshared_key: bytes | None
    server_public_key: bytes
    server: Endpoint
    addresses: tuple[bytes, ...]


class Station:
    """Everything a device does, as coroutines; each waits as long as its caller lets it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, membership: Membership) -> None:
        self._loop = loop
        self._addresses = {len(address): address for address in membership.addresses}
        self.interface = Interface(membership.private_key, wall=time.time)
        self.peer = self.interface.add_peer(
            membership.server_public_key,
            preshared_key=membership.preshared_key,
            allowed_ips=("0.0.0.0/0", "::/0"),
            endpoint=membership.server,
            persistent_keepalive=KEEPALIVE,
        )
        self.stack = Stack(membership.addresses, loopback=True)
        self.engine = Engine(loop, OuterSocket("", 0), self.interface, self.stack)
        self.engine.flows = self._settle
        self.engine.tap = self.tap
        self._connected = asyncio.Event()
        self._port = FIRST_PORT
        self._datagrams: dict[int, asyncio.Future[bytes]] = {}
        self._echoes: dict[bytes, asyncio.Future[None]] = {}

    async def connect(self) -> None:
        """Make a handshake and wait until the session stands."""
        self.engine.start()
        self.interface.initiate(self.peer, time.monotonic())
        self.engine.wake()
        await self._connected.wait()

    def close(self) -> None:
        self.engine.stop()

    def source(self, destination: bytes) -> Address:
        """The station's own address of the same family, and a fresh port."""
        self._port = FIRST_PORT + (self._port + 1 - FIRST_PORT) % (65536 - FIRST_PORT)
        return self._addresses[len(destination)], self._port

    async def ping(self, destination: bytes) -> None:
        """Wait for the answer to one echo request."""
        rest = os.urandom(16)
        kind = icmp.ECHO_REQUEST if len(destination) == 4 else icmp.V6_ECHO_REQUEST
        source = self._addresses[len(destination)]
        packet = icmp.build_message(source, destination, kind, 0, rest)
        answered = self._echoes[rest] = self._loop.create_future()
        self.interface.send(self.peer, packet, time.monotonic())
        self.engine.wake()
        await answered

    async def exchange(self, destination: Address, payload: bytes) -> bytes:
        """Send one UDP datagram and wait for one back."""
        source = self.source(destination[0])
        answered: asyncio.Future[bytes] = self._loop.create_future()
        self._datagrams[source[1]] = answered
        now = time.monotonic()
        self.stack.send_udp(self.peer, source, destination, payload, now, fragment=True)
        self.engine.wake()
        try:
            return await answered
        finally:
            del self._datagrams[source[1]]

    async def open(self, destination: Address) -> Stream:
        """A TCP connection; ConnectionError where it is refused or cannot be reached."""
        source = self.source(destination[0])
        connection = self.stack.connect(self.peer, source, destination, time.monotonic())
        stream = Stream(self, connection)
        self.engine.wake()
        while not connection.established:
            await stream.changed()
        return stream

    # -- what the engine asks of us ----------------------------------------------------------------

    def _settle(self, now: float) -> bool:
        for seen in self.stack.events():
            if isinstance(seen, UdpDatagram):
                waiting = self._datagrams.get(seen.destination_port)
                if waiting is not None and not waiting.done():
                    waiting.set_result(seen.payload)
        for connection in self.stack.take_ready():
            if isinstance(connection.owner, Stream):
                connection.owner.wake.set()
        while (event := self.interface.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self._connected.set()
        return False

    def tap(self, peer: Peer, packet: bytes | memoryview) -> None:
        """Look for echo replies among the inner packets: the stack has no use for them."""
        at = 20 if packet[0] >> 4 == 4 else 40
        kind = icmp.ECHO_REPLY if at == 20 else icmp.V6_ECHO_REPLY
        if len(packet) >= at + 20 and packet[at] == kind:
            waiting = self._echoes.pop(bytes(packet[at + 4 : at + 20]), None)
            if waiting is not None and not waiting.done():
                waiting.set_result(None)


class Stream:
    """A TCP connection of a station."""

    def __init__(self, station: Station, connection: TcpConnection) -> None:
        self._station = station
        self.connection = connection
        self.wake = asyncio.Event()
        connection.owner = self

    async def changed(self) -> None:
        """Wait until something happened; ConnectionError when it was the end."""
        if self.connection.error is not None:
            raise ConnectionError(str(self.connection.error))
        await self.wake.wait()
        self.wake.clear()

    async def write(self, data: bytes) -> None:
        """Hand over all of `data`."""
        while data:
            count = self.connection.write(data, self._now())
            self._station.engine.wake()
            data = data[count:]
            if data:
                await self.changed()

    async def read(self) -> bytes:
        """The next bytes; none at the end of the stream."""
        while not (data := self.connection.read()):
            if self.connection.eof:
                return b""
            await self.changed()
        self._station.engine.wake()
        return data

    def close(self) -> None:
        """End our direction."""
        self.connection.close(self._now())
        self._station.engine.wake()

    def _now(self) -> float:
        return self._station.engine.now
