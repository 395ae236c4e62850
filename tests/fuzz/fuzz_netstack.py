"""Arbitrary packets, bursts and times into a stack; what comes out must be packets.

`one_input` is what a fuzzer calls; it raises when a promise is broken.
"""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np

from lopower.bursts import Rows
from lopower.netstack import icmp, ip
from lopower.netstack.checksum import ones_sum, pseudo_header_sum
from lopower.netstack.events import EchoRequest, IcmpError, UdpDatagram, Unreachable
from lopower.netstack.stack import MTU, Stack, TcpRequest

GATEWAY_V4 = bytes([10, 90, 0, 1])
GATEWAY_V6 = bytes.fromhex("fd90") + bytes(13) + b"\x01"
V4_ADDRESSES = bytes([10, 90, 0, 2, 10, 90, 0, 1])
V6_ADDRESSES = bytes.fromhex("fd90") + bytes(13) + b"\x02" + GATEWAY_V6


class CheckingSink:
    """Takes only packets that parse and whose checksums are right."""

    def packet(self, link: Hashable, packet: bytes) -> None:
        header = ip.decode(packet)
        assert header.total_length == len(packet) <= MTU
        if header.fragment is not None:
            return
        data = packet[header.header_length :]
        total = ones_sum(data)
        if header.protocol != ip.ICMP:
            addresses = header.source, header.destination
            total += pseudo_header_sum(*addresses, header.protocol, len(data))
        assert total % 65535 == 0

    def burst(self, link: Hashable, packets: Rows) -> None:
        for view in packets.views:
            header = ip.decode(view)
            assert not any(view[header.total_length :])
            self.packet(link, bytes(view[: header.total_length]))


def dressed(kind: int, data: bytes) -> bytes:
    """The data as it is, or behind an IP header that lets it pass the first checks."""
    if kind == 1 and len(data) >= 2:
        flags = data[0] << 8 if data[0] & 0x20 else ip.DONT_FRAGMENT
        header = ip.ipv4_header(
            V4_ADDRESSES[:4], V4_ADDRESSES[4:], data[1], len(data) - 2, flags=flags
        )
        return header + data[2:]
    if kind == 2 and data:
        header = ip.ipv6_header(V6_ADDRESSES[:16], GATEWAY_V6, data[0], len(data) - 1)
        return header + data[1:]
    if kind == 3 and data:
        kind = icmp.ECHO_REQUEST if data[0] & 1 else icmp.DESTINATION_UNREACHABLE
        return icmp.build_message(V4_ADDRESSES[:4], V4_ADDRESSES[4:], kind, data[0] >> 4, data)
    return data


def react(stack: Stack, now: float) -> None:
    """Answer events as a proxy might."""
    for event in stack.events():
        if isinstance(event, UdpDatagram):
            source = event.source, event.source_port
            destination = event.destination, event.destination_port
            stack.send_udp(event.link, destination, source, event.payload, now, fragment=True)
            stack.send_unreachable(event.link, event.packet, Unreachable.HOST, now)
        elif isinstance(event, EchoRequest):
            stack.send_echo_reply(event)
        elif isinstance(event, TcpRequest):
            event.connection.accept(now)
        else:
            assert isinstance(event, IcmpError)
    for connection in stack.take_ready():
        connection.write(connection.read(), now)


def one_input(data: bytes) -> None:
    """A sequence of (kind and repetition, length, packet)."""
    stack = Stack([GATEWAY_V4, GATEWAY_V6], random=bytes)
    sink = CheckingSink()
    now, at = 0.0, 0
    while at + 2 <= len(data):
        control, length = data[at], data[at + 1]
        packet = dressed(control & 3, data[at + 2 : at + 2 + length])
        at += 2 + length
        count = 1 + (control >> 2 & 15)
        rows = np.frombuffer(packet.ljust(len(packet) + 15 & ~15, b"\0") * count, np.uint8)
        matrix = rows.reshape(count, -1)
        if count == 1 or not stack.receive_burst(control >> 7, matrix, now):
            for row in matrix:
                stack.receive(control >> 7, row.data, now)
        react(stack, now)
        stack.flush(now, sink)
        if control & 0x40:
            now += length
            deadline = stack.deadline()
            if deadline is not None and deadline <= now:
                stack.handle_timer(now)
                stack.flush(now, sink)
    stack.drop_link(0)
    stack.drop_link(1)
    stack.flush(now, sink)
