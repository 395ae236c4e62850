"""DNS as a gateway service: questions that come through the tunnel, over UDP and TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lopower.dns.server import Server
from lopower.netstack.events import UdpDatagram
from lopower.netstack.tcp.connection import TcpConnection

if TYPE_CHECKING:
    from lopower.proxy.client import Client
    from lopower.proxy.proxy import Proxy

PORT = 53
STREAM_IDLE = 30.0  # seconds (RFC 7766, 6.2.3 leaves it to us)
MAX_STREAMS = 1024  # all devices together; each is a few KB


class Asked(NamedTuple):
    """Who waits for an answer over UDP."""

    client: Client
    source: tuple[bytes, int]
    local: tuple[bytes, int]


class NameService:
    """Carries questions and answers between the devices and the DNS core."""

    def __init__(self, proxy: Proxy, server: Server) -> None:
        self._proxy = proxy
        self._server = server
        self._streams: dict[NameStream, None] = {}

    def on_datagram(self, client: Client, datagram: UdpDatagram) -> None:
        asked = Asked(
            client,
            (datagram.source, datagram.source_port),
            (datagram.destination, datagram.destination_port),
        )
        answer = self._server.receive(datagram.payload, asked, self._proxy.now)
        if answer is not None:
            self._reply(asked, answer)

    def _reply(self, asked: Asked, answer: bytes) -> None:
        client, source, local = asked
        proxy = self._proxy
        proxy.stack.send_udp(
            client.link, local, source, answer, proxy.now, fragment=client.fragments
        )

    def on_stream(self, client: Client, connection: TcpConnection) -> None:
        while len(self._streams) >= MAX_STREAMS:
            next(iter(self._streams)).abort()
        self._streams[NameStream(self, client, connection)] = None
        connection.accept(self._proxy.now)

    def ask(self, stream: NameStream, query: bytes) -> bytes | None:
        return self._server.receive(query, stream, self._proxy.now, stream=True)

    def deliver(self) -> None:
        """Hand out answers that came from upstream."""
        for asked, answer in self._server.answers():
            if isinstance(asked, NameStream):
                asked.reply(answer)
                asked.close_if_done()
            elif isinstance(asked, Asked):
                self._reply(asked, answer)

    def forget(self, stream: NameStream) -> None:
        self._streams.pop(stream, None)

    def expire(self, now: float) -> None:
        """Close streams that were idle for long enough."""
        for stream in [s for s in self._streams if s.last + STREAM_IDLE <= now]:
            stream.close()

    @property
    def now(self) -> float:
        return self._proxy.now


class NameStream:
    """One TCP connection: messages with a length of two bytes before each (RFC 1035, 4.2.2)."""

    __slots__ = ("_connection", "_received", "_service", "_unanswered", "client", "last")

    def __init__(self, service: NameService, client: Client, connection: TcpConnection) -> None:
        self._service = service
        self.client = client
        self._connection = connection
        self._received = bytearray()
        self._unanswered = 0
        self.last = service.now
        connection.owner = self

    def on_ready(self) -> None:
        connection, received = self._connection, self._received
        if connection.closed:
            self._service.forget(self)
            return
        while data := connection.read(1 << 16):
            received += data
            self.last = self._service.now
            self._answer()
        self.close_if_done()

    def close_if_done(self) -> None:
        """Our end follows the device's when every question has been answered."""
        if self._connection.eof and not self._unanswered:
            self.close()

    def _answer(self) -> None:
        received = self._received
        while len(received) >= 2:
            size = int.from_bytes(received[:2])
            if len(received) < 2 + size:
                return
            query = bytes(received[2 : 2 + size])
            del received[: 2 + size]
            self._unanswered += 1
            answer = self._service.ask(self, query)
            if answer is not None:
                self.reply(answer)

    def reply(self, answer: bytes) -> None:
        self._unanswered -= 1
        message = len(answer).to_bytes(2) + answer
        # A peer that takes no answers, but goes on asking, is not worth a buffer.
        if self._connection.write(message, self._service.now) < len(message):
            self.abort()

    def close(self) -> None:
        self._connection.release(self._service.now)
        self._service.forget(self)

    def abort(self) -> None:
        self._connection.abort(self._service.now)
        self._service.forget(self)
