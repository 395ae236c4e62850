"""One UDP mapping: what a device sends from one of its ports, and what comes back to it.

Mapping is endpoint-independent; what comes back is let in from every address that the device itself
may reach (RFC 4787, REQ-1 and REQ-8).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from lopower.netstack.events import UdpDatagram, Unreachable
from lopower.netstack.udp import build
from lopower.tailnet.backend import DialError

if TYPE_CHECKING:
    from lopower.proxy.client import Client
    from lopower.proxy.proxy import Proxy

IDLE = 60.0  # seconds; what devices' own keepalives assume of a NAT

REASONS = {
    DialError.REFUSED: Unreachable.PORT,
    DialError.UNREACHABLE: Unreachable.HOST,
    DialError.TIMED_OUT: Unreachable.HOST,
    DialError.EXHAUSTED: Unreachable.HOST,
    DialError.PROHIBITED: Unreachable.PROHIBITED,
}


class UdpMapping:
    """Owner of one UDP port on the other side."""

    __slots__ = ("_port", "_proxy", "client", "last", "opened", "received", "sent", "source")

    def __init__(self, proxy: Proxy, client: Client, source: tuple[bytes, int]) -> None:
        self._proxy = proxy
        self.client = client
        self.source = source
        self.opened = self.last = proxy.now
        self.sent = self.received = 0
        self._port = proxy.backend.open_udp(self)

    def send(self, datagram: UdpDatagram) -> None:
        """Device to the other side."""
        self.last = self._proxy.now
        self.sent += len(datagram.payload)
        self._port.send(datagram.destination, datagram.destination_port, datagram.payload)

    def on_datagram(self, source: bytes, port: int, payload: bytes) -> None:
        proxy = self._proxy
        if not self.client.policy.check(source, port, "udp").allowed:
            return
        self.last = proxy.now
        self.received += len(payload)
        proxy.stack.send_udp(
            self.client.link,
            (source, port),
            self.source,
            payload,
            proxy.now,
            fragment=self.client.fragments,
        )

    def on_udp_error(self, destination: bytes, port: int, payload: bytes, error: DialError) -> None:
        original = build(self.source, (destination, port), payload)
        self._proxy.stack.send_unreachable(
            self.client.link, original, REASONS[error], self._proxy.now
        )

    def close(self) -> None:
        self.client.mappings.pop(self.source, None)
        self._port.close()
