"""Fuzz target: an interface. Whatever arrives, it never raises and gives away nothing."""

from __future__ import annotations

from lopower.bursts import RowBuffer
from lopower.endpoint import Endpoint
from lopower.wireguard import Interface
from tests.wireguard.wire import LEFT, Side, Wire

ELSEWHERE = Endpoint("203.0.113.9", 9)


def _session() -> tuple[Wire, Side]:
    wire = Wire()
    wire.connect()
    return wire, wire.right


def _indexed(interface: Interface, datagram: bytes) -> bytes:
    """The same with an index that exists, which chance would never find."""
    index = next(iter(interface._core.sessions))
    return datagram[:4] + index.to_bytes(4, "little") + datagram[8:]


def one_input(data: bytes) -> None:
    """The first two bytes choose size and kind, the rest is what arrives."""
    wire, side = _session()
    interface, peer = side.interface, side.peer
    kind, size = data[:1] or b"\4", (data[1] if len(data) > 1 else 0) + 16
    body = data[2:]
    for datagram in (body, kind + b"\0\0\0" + body, _indexed(interface, kind + bytes(7) + body)):
        assert interface.receive(datagram, ELSEWHERE, wire.now) is None
    count = len(body) // size
    if count:
        buffer = RowBuffer(count * size)
        buffer.view[:] = body[: count * size]
        assert interface.receive_burst(buffer.rows(count, size), ELSEWHERE, wire.now) is None
    assert interface.datagrams_to_send() == []
    assert peer.endpoint == LEFT
    interface.handle_timer(wire.now + 1)
    inner = wire.send(wire.left)
    wire.settle()
    assert side.packets == [inner]
