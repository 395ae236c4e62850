"""Many devices that reconnect at once."""

from __future__ import annotations

import selectors
import socket
import time
from ipaddress import IPv4Address
from types import TracebackType

from bench.initiations import COOKIE, RESPONSE, Keys, initiation, with_cookie
from bench.session import PORT
from tests.lab.namespace import Namespace
from tests.lab.network import CLIENT, GATEWAY

ADDRESSES = "198.18.64.0/20"
WINDOW = 32  # under way at once: below what makes wireguard-go ask for cookies
PATIENCE = 0.5  # seconds without any answer, then the rest counts as unanswered


class Storm:
    """Devices with an address each. `prepare` makes the messages, `run` sends them."""

    def __init__(self, clients: Namespace, gateway: Namespace, keys: list[Keys]) -> None:
        clients.ip("route", "replace", "local", ADDRESSES, "dev", "lo")
        gateway.ip("route", "replace", ADDRESSES, "via", CLIENT)
        first = IPv4Address(ADDRESSES.partition("/")[0]) + 1
        self.keys = keys
        self.poller = selectors.DefaultSelector()
        self.sockets = []
        with clients.inside():
            for number in range(len(keys)):
                made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
                made.bind((str(first + number), 0))
                made.connect((GATEWAY, PORT))
                self.poller.register(made, selectors.EVENT_READ, number)
                self.sockets.append(made)

    def __enter__(self) -> Storm:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        for each in self.sockets:
            each.close()
        self.poller.close()

    def prepare(self) -> None:
        self.messages = [initiation(keys, number) for number, keys in enumerate(self.keys)]
        self.answered = self.cookies = 0

    def run(self) -> float:
        """Sends WINDOW at a time until all are answered; the seconds up to the last answer."""
        started = last = time.perf_counter()
        sent, total = 0, len(self.messages)
        while self.answered < total:
            while sent < total and sent - self.answered < WINDOW:
                self.sockets[sent].send(self.messages[sent])
                sent += 1
            ready = self.poller.select(PATIENCE)
            if not ready:
                break
            for key, _ in ready:
                self.receive(key.data)
            last = time.perf_counter()
        return last - started

    def receive(self, number: int) -> None:
        """Counts a response; a cookie is used at once."""
        reply = self.sockets[number].recv(256)
        if reply[0] == RESPONSE:
            self.answered += 1
        elif reply[0] == COOKIE:
            self.cookies += 1
            again = with_cookie(self.keys[number], self.messages[number], reply)
            self.sockets[number].send(again)
