"""The proxy: every flow a device opens passes here once, and is refused, served or dialled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Any

from lopower.netstack.events import EchoRequest, UdpDatagram, Unreachable
from lopower.netstack.stack import Stack
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.table import TcpRequest
from lopower.proxy.client import MAX_DIALS, MAX_TCP_FLOWS, MAX_UDP_MAPPINGS, Client
from lopower.proxy.policy import Protocol as Transport
from lopower.proxy.tcp import TcpRelay
from lopower.proxy.udp import IDLE, REASONS, UdpMapping
from lopower.shell.poller import Poller
from lopower.tailnet.backend import Backend, DialError

log = logging.getLogger(__name__)


StreamService = Callable[[Client, TcpConnection], None]
DatagramService = Callable[[Client, UdpDatagram], None]


class Proxy:
    """Takes what the stack reports and keeps every flow.

    `streams` and `datagrams` are the gateway's own services by port, at its own addresses.
    """

    def __init__(
        self, stack: Stack, backend: Backend, poller: Poller, local: Collection[bytes]
    ) -> None:
        self.stack = stack
        self.backend = backend
        self.poller = poller
        self.now = 0.0
        self.streams: dict[int, StreamService] = {}
        self.datagrams: dict[int, DatagramService] = {}
        self._clients: dict[Any, Client] = {}
        self._again: list[TcpRelay] = []
        self._local = frozenset(local)

    # -- devices -----------------------------------------------------------------------------------

    def add_client(self, client: Client) -> None:
        """Serve this device."""
        self._clients[client.link] = client

    def remove_client(self, link: Any) -> None:
        """End all flows of a device and serve it no more."""
        client = self._clients.pop(link, None)
        if client is not None:
            client.close()
        self.stack.drop_link(link)

    def client(self, link: Any) -> Client | None:
        return self._clients.get(link)

    def clients(self) -> Iterator[Client]:
        return iter(self._clients.values())

    # -- what the stack reports --------------------------------------------------------------------

    def settle(self, now: float) -> bool:
        """Handle everything the stack has to say; True where work is left for the next turn."""
        self.now = now
        again, self._again = self._again, []
        for relay in again:
            relay.on_ready()
        for event in self.stack.events():
            self._handle(event)
        for connection in self.stack.take_ready():
            owner = connection.owner
            if owner is not None:
                owner.on_ready()  # type: ignore[attr-defined]
        return bool(self._again)

    def again(self, relay: TcpRelay) -> None:
        """Let a relay go on in the next turn."""
        self._again.append(relay)

    def _handle(self, event: Any) -> None:
        client = self._clients.get(
            event.connection.link if type(event) is TcpRequest else event.link
        )
        if client is None:
            return
        kind = type(event)
        if kind is UdpDatagram:
            self._datagram(client, event)
        elif kind is TcpRequest:
            self._request(client, event.connection)
        elif kind is EchoRequest:
            self._echo(client, event)

    def _request(self, client: Client, connection: TcpConnection) -> None:
        address, port = connection.local
        if address in self._local:
            service = self.streams.get(port)
            if service is None:
                connection.refuse(self.now)
            else:
                service(client, connection)
            return
        if not self._allowed(client, address, port, "tcp"):
            connection.refuse(self.now)
        elif client.dials >= MAX_DIALS or len(client.relays) >= MAX_TCP_FLOWS:
            connection.ignore()  # its SYN comes again, when there may be room
        else:
            TcpRelay(self, client, connection).dial()

    def answer_dial_error(
        self, client: Client, connection: TcpConnection, error: DialError
    ) -> None:
        """Tell the device what came of its connection, as the network itself would."""
        if error is DialError.REFUSED:
            connection.refuse(self.now)
        elif error is DialError.TIMED_OUT:
            connection.ignore()
        else:
            self.stack.send_unreachable(
                client.link, connection.syn_packet(), REASONS[error], self.now
            )
            connection.ignore()

    def _datagram(self, client: Client, datagram: UdpDatagram) -> None:
        if datagram.destination in self._local:
            service = self.datagrams.get(datagram.destination_port)
            if service is None:
                self._unreachable(client, datagram, Unreachable.PORT)
            else:
                service(client, datagram)
            return
        if not self._allowed(client, datagram.destination, datagram.destination_port, "udp"):
            self._unreachable(client, datagram, Unreachable.PROHIBITED)
            return
        source = datagram.source, datagram.source_port
        mapping = client.mappings.get(source) or self._map(client, source)
        mapping.send(datagram)

    def _map(self, client: Client, source: tuple[bytes, int]) -> UdpMapping:
        if len(client.mappings) >= MAX_UDP_MAPPINGS:
            next(iter(client.mappings.values())).close()
        mapping = client.mappings[source] = UdpMapping(self, client, source)
        return mapping

    def _unreachable(self, client: Client, datagram: UdpDatagram, reason: Unreachable) -> None:
        self.stack.send_unreachable(client.link, datagram.packet, reason, self.now)

    def _echo(self, client: Client, request: EchoRequest) -> None:
        if not self._allowed(client, request.destination, 0, "icmp"):
            self.stack.send_unreachable(
                client.link, request.packet, Unreachable.PROHIBITED, self.now
            )
            return
        self.backend.ping(
            request.destination, request.payload, lambda: self.stack.send_echo_reply(request)
        )

    def _allowed(self, client: Client, address: bytes, port: int, protocol: Transport) -> bool:
        verdict = client.policy.check(address, port, protocol)
        if not verdict.allowed and client.refused(
            address, port, protocol, verdict.reason, self.now
        ):
            log.info("%s was refused %s port %d: %s", client.name, protocol, port, verdict.reason)
        return verdict.allowed

    def expire(self, now: float) -> None:
        """Close UDP mappings that were idle for long enough."""
        for client in self._clients.values():
            if client.mappings:
                for mapping in [m for m in client.mappings.values() if m.last + IDLE <= now]:
                    mapping.close()

    def close(self) -> None:
        for link in list(self._clients):
            self.remove_client(link)
