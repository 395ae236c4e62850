"""Real echo requests from the host: an unprivileged ICMP socket, or a raw one where that is barred.

Linux hands ICMP datagram sockets to the groups in net.ipv4.ping_group_range (icmp(7)).
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable
from typing import NamedTuple

from lopower.netstack.checksum import checksum
from lopower.shell.poller import Poller

log = logging.getLogger(__name__)

MAX_WAITING = 1024  # echo requests in flight: past it the oldest is taken for lost
WAIT = 10.0  # seconds; a later reply is of no use to anybody
_ECHO = {int(socket.AF_INET): (8, 0), int(socket.AF_INET6): (128, 129)}  # request, reply


class _Waiting(NamedTuple):
    destination: bytes
    answered: Callable[[], None]
    until: float


class Pinger:
    """Sends echo requests and matches their replies by sequence number and address."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller
        self._sockets: dict[int, _EchoSocket] = {}
        self._waiting: dict[int, _Waiting] = {}
        self._sequence = 0
        self._barred = False

    def ping(
        self, destination: bytes, payload: bytes, answered: Callable[[], None], now: float
    ) -> None:
        """Silence where there is no answer, or no permission to ask."""
        family = socket.AF_INET if len(destination) == 4 else socket.AF_INET6
        echo = self._sockets.get(family) or self._open(family)
        if echo is None:
            return
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._sequence = sequence = (self._sequence + 1) & 0xFFFF
        self._waiting[sequence] = _Waiting(destination, answered, now + WAIT)
        echo.send(destination, sequence, payload)

    def close(self) -> None:
        for echo in self._sockets.values():
            echo.close()
        self._sockets.clear()

    def on_reply(self, source: bytes, sequence: int) -> None:
        """A reply came to one of our sockets."""
        waiting = self._waiting.get(sequence)
        if waiting is not None and waiting.destination == source:
            del self._waiting[sequence]
            waiting.answered()

    def _open(self, family: int) -> _EchoSocket | None:
        try:
            echo = _EchoSocket(self, self._poller, family)
        except OSError:
            if not self._barred:
                self._barred = True
                log.warning(
                    "this host lets us send no pings: devices get answers from the gateway only "
                    "(net.ipv4.ping_group_range must include our group)"
                )
            return None
        self._sockets[family] = echo
        return echo


class _EchoSocket:
    def __init__(self, pinger: Pinger, poller: Poller, family: int) -> None:
        self._pinger = pinger
        self._poller = poller
        self._family = family
        self._raw = False
        protocol = socket.IPPROTO_ICMP if family == socket.AF_INET else socket.IPPROTO_ICMPV6
        flags = socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(family, socket.SOCK_DGRAM | flags, protocol)
        except PermissionError:
            self._socket = socket.socket(family, socket.SOCK_RAW | flags, protocol)
            self._raw = True
        self._identifier = os.urandom(2)
        self._request, self._reply = _ECHO[family]
        poller.watch(self._socket.fileno(), self)

    def send(self, destination: bytes, sequence: int, payload: bytes) -> None:
        message = bytearray([self._request, 0, 0, 0])
        message += self._identifier + sequence.to_bytes(2) + payload
        if self._family == socket.AF_INET:
            message[2:4] = checksum(message).to_bytes(2)  # for IPv6 the kernel does it
        try:
            self._socket.sendto(message, (socket.inet_ntop(self._family, destination), 0))
        except OSError:
            return  # no route: the device hears nothing, as from any dead host

    def on_socket(self, mask: int) -> None:
        while True:
            try:
                message, name = self._socket.recvfrom(65536)
            except OSError:
                return
            self._receive(message, name[0])

    def _receive(self, message: bytes, host: str) -> None:
        if self._raw and self._family == socket.AF_INET:
            message = message[(message[0] & 15) * 4 :]
        if len(message) < 8 or message[0] != self._reply:
            return
        if self._raw and message[4:6] != self._identifier:
            return
        source = socket.inet_pton(self._family, host.partition("%")[0])
        self._pinger.on_reply(source, int.from_bytes(message[6:8]))

    def close(self) -> None:
        self._poller.forget(self._socket.fileno())
        self._socket.close()
