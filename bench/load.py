"""Load for a gateway: small programs that run in the client's and the target's namespaces.

Each prints one line of JSON. Standard library only, so that any Python can run it.
"""

from __future__ import annotations

import json
import resource
import selectors
import socket
import sys
import time
from collections import deque

TARGET_PORTS = range(7000, 7008)  # several, so that the client's ports never run out
PATIENCE = 5.0


def serve(address: str) -> None:
    """Echoes TCP and UDP on all TARGET_PORTS, and answers any DNS question on port 53."""
    poller = selectors.DefaultSelector()
    for port in TARGET_PORTS:
        listener = socket.create_server((address, port), backlog=4096)
        listener.setblocking(False)
        poller.register(listener, selectors.EVENT_READ, accept)
        poller.register(bound_udp(address, port), selectors.EVENT_READ, echo_datagrams)
    poller.register(bound_udp(address, 53), selectors.EVENT_READ, answer_questions)
    print(json.dumps({"ready": True}), flush=True)
    while True:
        for key, _ in poller.select():
            key.data(key.fileobj, poller)


def bound_udp(address: str, port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
    made.bind((address, port))
    made.setblocking(False)
    return made


def accept(listener: socket.socket, poller: selectors.BaseSelector) -> None:
    try:
        while True:
            connection, _ = listener.accept()
            connection.setblocking(False)
            poller.register(connection, selectors.EVENT_READ, echo)
    except OSError:
        return


def echo(connection: socket.socket, poller: selectors.BaseSelector) -> None:
    try:
        data = connection.recv(65536)
        if data:
            connection.send(data)
            return
    except OSError:
        pass
    poller.unregister(connection)
    connection.close()


def echo_datagrams(server: socket.socket, _: selectors.BaseSelector) -> None:
    try:
        while True:
            data, sender = server.recvfrom(65536)
            server.sendto(data, sender)
    except OSError:
        return


def answer_questions(server: socket.socket, _: selectors.BaseSelector) -> None:
    """The same address for every name, for an hour."""
    try:
        while True:
            query, sender = server.recvfrom(4096)
            end = query.index(b"\0", 12) + 5
            header = query[:2] + b"\x81\x80\0\1\0\1\0\0\0\0"
            record = b"\xc0\x0c\0\1\0\1\0\0\x0e\x10\0\4\x0a\x48\0\2"
            server.sendto(header + query[12:end] + record, sender)
    except OSError:
        return


def percentiles(seconds: list[float]) -> dict[str, float]:
    """Median and 99th percentile, in microseconds."""
    ordered = sorted(seconds)
    return {
        "p50": ordered[len(ordered) // 2] * 1e6,
        "p99": ordered[int(len(ordered) * 0.99)] * 1e6,
    }


def connect(address: str, count: int) -> dict[str, float]:
    """New connection and one byte there and back, one after the other."""
    took = []
    for number in range(count):
        started = time.perf_counter()
        with socket.create_connection((address, TARGET_PORTS[number % 8]), PATIENCE) as connection:
            connection.send(b"x")
            connection.recv(1)
            took.append(time.perf_counter() - started)
    return percentiles(took[count // 20 :])


def udp(address: str, count: int, size: int = 64) -> dict[str, float]:
    """Datagrams there and back, one after the other, in one flow."""
    took, lost, payload = [], 0, bytes(size)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as flow:
        flow.connect((address, TARGET_PORTS[0]))
        flow.settimeout(1)
        for _ in range(count):
            started = time.perf_counter()
            try:
                flow.send(payload)
                flow.recv(size)
            except OSError:
                lost += 1
                continue
            took.append(time.perf_counter() - started)
    return {**percentiles(took[count // 20 :]), "lost": lost}


class Sprint:
    """Many short connections, `at_once` of them open at any time."""

    def __init__(self, address: str, at_once: int) -> None:
        self.address = address
        self.at_once = at_once
        self.poller = selectors.DefaultSelector()
        self.started: deque[tuple[float, socket.socket]] = deque()
        self.count = self.done = self.failed = 0

    def open(self) -> None:
        connection = socket.socket()
        connection.setblocking(False)
        port = TARGET_PORTS[self.count % len(TARGET_PORTS)]
        self.count += 1
        try:
            if (error := connection.connect_ex((self.address, port))) not in (0, 115):
                raise OSError(error, "connect")
        except OSError:
            self.failed += 1
            connection.close()
            return
        self.started.append((time.monotonic(), connection))
        self.poller.register(connection, selectors.EVENT_WRITE)

    def step(self, key: selectors.SelectorKey, events: int) -> None:
        connection: socket.socket = key.fileobj  # type: ignore[assignment]
        try:
            if events & selectors.EVENT_WRITE:
                connection.send(b"x")
                self.poller.modify(connection, selectors.EVENT_READ)
                return
            self.done += connection.recv(1) == b"x"
        except OSError:
            self.failed += 1
        self.close(connection)

    def close(self, connection: socket.socket) -> None:
        self.poller.unregister(connection)
        connection.close()

    def give_up(self) -> None:
        """Closes connections that have waited too long."""
        while self.started and self.started[0][0] < time.monotonic() - PATIENCE:
            _, connection = self.started.popleft()
            if connection.fileno() >= 0:
                self.failed += 1
                self.close(connection)

    def run(self, seconds: float) -> dict[str, float]:
        begin = time.monotonic()
        while time.monotonic() < begin + seconds:
            while len(self.poller.get_map()) < self.at_once:
                self.open()
            for key, events in self.poller.select(0.1):
                self.step(key, events)
            self.give_up()
        return {"per_second": self.done / (time.monotonic() - begin), "failed": self.failed}


def hold_tcp(address: str, count: int) -> list[socket.socket]:
    """Opens `count` connections and leaves them idle."""
    held: list[socket.socket] = []
    for number in range(count):
        port = TARGET_PORTS[number % len(TARGET_PORTS)]
        held.append(socket.create_connection((address, port), PATIENCE))
    return held


def hold_udp(address: str, count: int) -> list[socket.socket]:
    """Opens `count` flows: a datagram there and back each."""
    held = []
    for number in range(count):
        flow = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        flow.connect((address, TARGET_PORTS[number % len(TARGET_PORTS)]))
        flow.settimeout(PATIENCE)
        flow.send(b"x")
        flow.recv(1)
        held.append(flow)
    return held


def hold(kind: str, address: str, count: int) -> None:
    """Holds flows until standard input ends."""
    started = time.monotonic()
    try:
        held = (hold_tcp if kind == "tcp" else hold_udp)(address, count)
        result: dict[str, object] = {"held": len(held)}
    except OSError as error:
        result = {"held": 0, "error": str(error)}
    result["seconds"] = time.monotonic() - started
    print(json.dumps(result), flush=True)
    sys.stdin.read()


def main(what: str, address: str, *numbers: str) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    if what == "serve":
        serve(address)
    elif what.startswith("hold-"):
        hold(what.removeprefix("hold-"), address, int(numbers[0]))
    else:
        jobs = {
            "connect": lambda: connect(address, int(numbers[0])),
            "udp": lambda: udp(address, int(numbers[0])),
            "sprint": lambda: Sprint(address, 16).run(float(numbers[0])),
        }
        print(json.dumps(jobs[what]()))


if __name__ == "__main__":
    main(*sys.argv[1:])
