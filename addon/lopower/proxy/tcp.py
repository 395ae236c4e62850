"""One TCP flow of a device, stitched to a socket.

Dial first: the device's handshake is completed only when the other side has answered, so it sees a
refusal as a refusal. Back-pressure is natural: bytes are read from one side only while the other
takes them. Each direction ends on its own (half-close).
"""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING

from lopower.netstack.tcp.connection import TcpConnection
from lopower.shell.poller import FAILED, HANGUP, READABLE, WRITABLE
from lopower.tailnet.backend import Dial, DialError

if TYPE_CHECKING:
    from lopower.proxy.client import Client
    from lopower.proxy.proxy import Proxy

PULL_SEGMENTS = 384  # read so many segments at once: the sender's largest flush
PULLS_PER_TURN = 2  # reads from one socket before the others have their turn
PUSH_BYTES = 1 << 18  # taken from the device's stream at a time
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER with no time: close sends RST


class TcpRelay:
    """Owner of a netstack connection and of the socket on the other side."""

    __slots__ = (
        "_dial",
        "_hangup",
        "_pending",
        "_proxy",
        "_readable",
        "_shut",
        "_socket",
        "_writable",
        "client",
        "connection",
        "name",
        "opened",
        "received",
        "sent",
    )

    def __init__(self, proxy: Proxy, client: Client, connection: TcpConnection) -> None:
        self._proxy = proxy
        self.client = client
        self.connection = connection
        self._dial: Dial | None = None
        self._socket: socket.socket | None = None
        self._pending: memoryview | bytes = b""
        self._readable = self._hangup = self._shut = False
        self._writable = True
        self.opened = proxy.now
        self.sent = self.received = 0  # bytes, as the device sees them
        connection.owner = self
        client.relays.add(self)

    def dial(self) -> None:
        """Open the other side."""
        self.client.dials += 1
        destination, port = self.connection.local
        self._dial = self._proxy.backend.dial_tcp(destination, port, self._dialled)

    def _dialled(self, result: socket.socket | DialError) -> None:
        self._dial = None
        self.client.dials -= 1
        if isinstance(result, DialError):
            self._proxy.answer_dial_error(self.client, self.connection, result)
            self._finish()
            return
        self._socket = result
        self._proxy.poller.hand_over(result.fileno(), self)
        self.connection.accept(self._proxy.now)

    # -- the socket's side -----------------------------------------------------------------------

    def on_socket(self, mask: int) -> None:
        if mask & FAILED:
            self.abort()
            return
        if mask & HANGUP:
            self._hangup = True
        if mask & READABLE:
            self._readable = True
            self._pull()
        if mask & WRITABLE and not self._writable:
            self._writable = True
            self.on_ready()

    def _pull(self) -> None:
        """Socket to device, while there are bytes and room."""
        connection, tcp = self.connection, self._socket
        if tcp is None or not connection.established:
            return
        limit = PULL_SEGMENTS * connection.mss
        for _ in range(PULLS_PER_TURN):
            if not self._readable:
                return
            room = connection.reserve(limit)
            if not len(room):
                return
            try:
                count = tcp.recv_into(room)
            except BlockingIOError:
                self._readable = False
                return
            except OSError:
                self.abort()
                return
            if not count:
                self._readable = False
                connection.close(self._proxy.now)
                return
            self.received += count
            connection.commit(count, self._proxy.now)
            # A short read of a stream socket means that it is empty (epoll(7)).
            if count < len(room) and not self._hangup:
                self._readable = False
        self._proxy.again(self)

    # -- the device's side -------------------------------------------------------------------------

    def on_ready(self) -> None:
        """The connection changed: bytes came, room came, or it ended."""
        if self.connection.closed:
            self._ended()
            return
        self._push()
        if self._readable:
            self._pull()

    def _push(self) -> None:
        """Device to socket, while there are bytes and the socket takes them."""
        connection, tcp = self.connection, self._socket
        if tcp is None:
            return
        while self._writable:
            data = self._pending or connection.read(PUSH_BYTES)
            if not data:
                break
            try:
                count = tcp.send(data)
            except BlockingIOError:
                count = 0
            except OSError:
                self.abort()
                return
            self.sent += count
            if count < len(data):
                self._pending = memoryview(data)[count:]
                self._writable = False
            else:
                self._pending = b""
        if connection.eof and not self._shut and not self._pending:
            self._shut = True
            try:
                tcp.shutdown(socket.SHUT_WR)
            except OSError:
                self.abort()

    def _ended(self) -> None:
        """The connection is over: a reset goes on as one, what is still to be sent goes first."""
        if self._socket is None:
            self._finish()
        elif self.connection.error is not None:
            self._reset()
        else:
            self._push()
            if not self._pending and not self.connection.readable:
                self._finish()

    def _reset(self) -> None:
        if self._socket is not None:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._finish()

    def abort(self) -> None:
        """Reset both sides."""
        self.connection.abort(self._proxy.now)
        self._reset()

    def _finish(self) -> None:
        self.connection.owner = None
        self.client.relays.discard(self)
        if self._dial is not None:
            self.client.dials -= 1
            self._dial.cancel()
            self._dial = None
        if self._socket is not None:
            self._proxy.poller.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None
