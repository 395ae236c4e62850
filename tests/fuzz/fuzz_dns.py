"""Fuzz target: the DNS server. The first bytes choose what happens, the rest is a message."""

from __future__ import annotations

import dns.message

from lopower.dns.server import Server

HEADER = b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00"
QUESTION = HEADER + b"\x07example\x03com\x00\x00\x01\x00\x01"


def one_input(data: bytes) -> None:
    """Query, upstream's answer and a cached answer: nothing raises, every answer can be read."""
    server = Server()
    for query in (data, HEADER + data):
        check(query, server.receive(query, "fuzz", 0.0, stream=len(data) % 2 == 0))
    assert server.receive(QUESTION, "device", 0.0) is None or b"example" in data
    for upstream in server.upstream_queries():
        dns.message.from_wire(upstream.wire)
        header = b"\0\0\x81\x80" + data[:8].ljust(8, b"\0")
        body = upstream.wire[12:-11] + data[8:] if len(data) % 3 else data[8:]
        server.receive_upstream(upstream.id, header + body, 1.0)
    for _, answer in server.answers():
        dns.message.from_wire(answer)
    check(QUESTION, server.receive(QUESTION, "device", 2.0))
    server.handle_timer(100.0)


def check(query: bytes, answer: bytes | None) -> None:
    if answer is not None:
        assert answer[:2] == query[:2]
        dns.message.from_wire(answer)
