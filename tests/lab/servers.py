"""Small servers in the target's namespace, each a thread of the test."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from tests.lab.namespace import Namespace

BLOCK = 1 << 18

Conversation = Callable[[socket.socket], None]


def echo(connection: socket.socket) -> None:
    """Sends back what comes, and the end after the end."""
    while data := connection.recv(BLOCK):
        connection.sendall(data)
    connection.shutdown(socket.SHUT_WR)


def digest(connection: socket.socket) -> None:
    """Takes everything up to the end, then answers with its SHA-256."""
    connection.sendall(receive_digest(connection).encode())


def source(connection: socket.socket) -> None:
    """Sends as many bytes as the first line asks for, always the same ones, and closes."""
    send_bytes(connection, int(receive_line(connection)))


def receive_digest(connection: socket.socket) -> str:
    """SHA-256 of everything up to the end of the stream."""
    sha, buffer = hashlib.sha256(), bytearray(BLOCK)
    while count := connection.recv_into(buffer):
        sha.update(memoryview(buffer)[:count])
    return sha.hexdigest()


def receive_line(connection: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n"):
        if not (byte := connection.recv(1)):
            break
        line += byte
    return line


def pattern(count: int) -> bytes:
    """`count` bytes that no misplaced segment leaves unchanged."""
    block = hashlib.shake_128(b"lopower").digest(1_000_003)
    return (block * (count // len(block) + 1))[:count]


def send_bytes(connection: socket.socket, count: int) -> str:
    """Sends `pattern(count)` and returns its SHA-256."""
    data = pattern(count)
    connection.sendall(data)
    return hashlib.sha256(data).hexdigest()


class TcpServer:
    """Accepts on `address` in `namespace`; each connection has a thread for its conversation."""

    def __init__(self, namespace: Namespace, address: str, port: int, talk: Conversation) -> None:
        self.talk = talk
        self.connections = 0
        self.listener = namespace.open_socket("tcp", address, timeout=None)
        self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.listener.bind((address, port))
        self.listener.listen(128)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                self.connections += 1
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            self.talk(connection)

    def close(self) -> None:
        with suppress(OSError):
            self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


class UdpServer:
    """Answers each datagram on `address` with what `reply` makes of it, from the same socket."""

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int,
        reply: Callable[[bytes], bytes | None] = bytes,
    ) -> None:
        self.sources: list[tuple[str, int]] = []
        self.socket = namespace.open_socket("udp", address, timeout=None)
        self.socket.bind((address, port))
        self.reply = reply
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                datagram, sender = self.socket.recvfrom(65535)
                if sender is None:  # shut down
                    return
                self.sources.append(sender[:2])
                if (answer := self.reply(datagram)) is not None:
                    self.socket.sendto(answer, sender)

    def close(self) -> None:
        with suppress(OSError):
            self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()


class DnsServer:
    """An upstream resolver: `small.example` has an address, `big.example` 6,000 bytes of text."""

    def __init__(self, namespace: Namespace, address: str, port: int = 53) -> None:
        self.questions: list[str] = []
        self.udp = UdpServer(namespace, address, port, lambda wire: self.answer(wire, 1232))
        self.tcp = TcpServer(namespace, address, port, self._stream)

    def answer(self, wire: bytes, limit: int) -> bytes:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        self.questions.append(f"{question.name} {dns.rdatatype.to_text(question.rdtype)}")
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        records = ZONE.get((question.name.to_text().lower(), question.rdtype))
        if records:
            response.answer.append(
                dns.rrset.from_text_list(
                    question.name, 300, question.rdclass, question.rdtype, records
                )
            )
        elif not any(name == question.name.to_text().lower() for name, _ in ZONE):
            response.set_rcode(dns.rcode.NXDOMAIN)
        return _fit(response, limit)

    def _stream(self, connection: socket.socket) -> None:
        while header := connection.recv(2, socket.MSG_WAITALL):
            wire = connection.recv(int.from_bytes(header, "big"), socket.MSG_WAITALL)
            answer = self.answer(wire, 65535)
            connection.sendall(len(answer).to_bytes(2, "big") + answer)

    def close(self) -> None:
        self.udp.close()
        self.tcp.close()


ZONE = {
    ("small.example.", dns.rdatatype.A): ["10.72.0.2"],
    ("small.example.", dns.rdatatype.AAAA): ["fd72::2"],
    ("big.example.", dns.rdatatype.TXT): [f'"{number:02} {"x" * 200}"' for number in range(30)],
}


def _fit(response: dns.message.Message, limit: int) -> bytes:
    """The wire form, cut and marked as truncated where it is longer than `limit`."""
    wire = response.to_wire(max_size=65535)
    if len(wire) <= limit:
        return wire
    response.answer.clear()
    response.flags |= dns.flags.TC
    return response.to_wire()
