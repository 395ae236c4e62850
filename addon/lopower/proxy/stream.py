"""A netstack connection as an asyncio transport, for the gateway's own TCP services."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from lopower.netstack.tcp.connection import TcpConnection

if TYPE_CHECKING:
    from lopower.proxy.proxy import Proxy

_READ = 1 << 16
MAX_BUFFERED = 1 << 20  # what a service may write before its peer takes it


class StreamTransport(asyncio.Transport):
    """Owner of an accepted connection; drives an ordinary asyncio protocol."""

    def __init__(
        self,
        proxy: Proxy,
        connection: TcpConnection,
        protocol: asyncio.Protocol,
        wake: Any,
        extra: dict[str, Any],
    ) -> None:
        super().__init__(extra)
        self._proxy = proxy
        self._connection = connection
        self._protocol: asyncio.BaseProtocol = protocol
        self._wake = wake
        self._buffer = bytearray()
        self._reading = True
        self._closing = self._lost = self._eof = self._paused = False
        connection.owner = self
        connection.accept(proxy.now)
        protocol.connection_made(self)

    def on_ready(self) -> None:
        """Bytes came, room came, or the connection ended."""
        if self._lost:
            return
        self._flush()
        self._deliver()
        if self._connection.closed:
            self._lose()

    def _deliver(self) -> None:
        protocol = self._protocol
        assert isinstance(protocol, asyncio.Protocol)
        while self._reading and not self._closing and (data := self._connection.read(_READ)):
            protocol.data_received(data)
        if self._connection.eof and not self._eof and not self._closing:
            self._eof = True
            if not protocol.eof_received():
                self.close()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._closing or self._lost:
            return
        self._buffer += data
        self._flush()
        self._wake()
        if len(self._buffer) > MAX_BUFFERED and not self._paused:
            self._paused = True
            self._protocol.pause_writing()

    def _flush(self) -> None:
        if self._buffer:
            del self._buffer[: self._connection.write(bytes(self._buffer), self._proxy.now)]
        if self._paused and len(self._buffer) < MAX_BUFFERED // 2:
            self._paused = False
            self._protocol.resume_writing()
        if self._closing and not self._buffer and not self._lost:
            self._connection.release(self._proxy.now)
            self._lose()

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._flush()
            self._wake()

    def abort(self) -> None:
        self._connection.abort(self._proxy.now)
        self._wake()
        self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._lost = self._closing = True
            self._connection.owner = None
            self._protocol.connection_lost(None)

    def is_closing(self) -> bool:
        return self._closing

    def is_reading(self) -> bool:
        return self._reading

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._deliver()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._protocol

    def get_write_buffer_size(self) -> int:
        return len(self._buffer)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """The limits are fixed."""

    def can_write_eof(self) -> bool:
        return False
