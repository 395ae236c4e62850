"""What the proxy asks of whatever lies behind the gateway."""

from __future__ import annotations

import socket
from collections.abc import Callable
from enum import Enum
from typing import Protocol


class DialError(Enum):
    """Why a flow could not be opened, in the terms that a device can be told."""

    REFUSED = "refused"
    UNREACHABLE = "unreachable"
    PROHIBITED = "prohibited"
    TIMED_OUT = "timed out"
    EXHAUSTED = "the gateway is out of sockets"


Dialled = Callable[[socket.socket | DialError], None]


class Dial(Protocol):
    """A TCP connection on its way."""

    def cancel(self) -> None:
        """Give up; the callback will not be called."""


class UdpReceiver(Protocol):
    """Who gets what comes back to a UDP port."""

    def on_datagram(self, source: bytes, port: int, payload: bytes) -> None: ...

    def on_udp_error(
        self, destination: bytes, port: int, payload: bytes, error: DialError
    ) -> None: ...


class UdpPort(Protocol):
    """One local UDP port: endpoint-independent, any number of destinations (RFC 4787)."""

    def send(self, destination: bytes, port: int, payload: bytes | memoryview) -> None: ...

    def close(self) -> None: ...


class Backend(Protocol):
    """Addresses are packed bytes (4 or 16); nothing here asks whether a flow is allowed."""

    def dial_tcp(self, destination: bytes, port: int, dialled: Dialled) -> Dial | None:
        """Open a TCP flow. `dialled` gets a connected, non-blocking socket, or the error.

        The socket is watched already: take it with `Poller.hand_over`. None: `dialled` was called
        before this returned.
        """

    def open_udp(self, receiver: UdpReceiver) -> UdpPort: ...

    def ping(self, destination: bytes, payload: bytes, answered: Callable[[], None]) -> None:
        """Send one real echo request; `answered` is called only if its reply comes."""

    def close(self) -> None: ...
