"""A stack whose TCP only takes notes, and a sink that keeps what it is given."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import pytest

from lopower.bursts import Matrix, Rows
from lopower.netstack.ip import IpHeader
from lopower.netstack.stack import Stack

GATEWAY_V4 = bytes([10, 90, 0, 1])
GATEWAY_V6 = bytes.fromhex("fd90") + bytes(13) + b"\x01"
BROADCAST = bytes([10, 90, 255, 255])


class NotedTcp:
    """Stands in for `TcpTable`: what the IP layer hands on is in `calls`."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.burst_answer = True
        self.next_deadline: float | None = None
        self.pending: list[Any] = []

    def receive(self, link: Hashable, packet: memoryview, ip: IpHeader, now: float) -> None:
        self.calls.append(("receive", link, bytes(packet), ip, now))

    def receive_burst(
        self,
        link: Hashable,
        key: bytes,
        packets: Matrix,
        header_length: int,
        packet_length: int,
        now: float,
    ) -> bool:
        rows = [bytes(row[:packet_length]) for row in packets]
        self.calls.append(("burst", link, key, rows, header_length, packet_length, now))
        return self.burst_answer

    def connect(self, *arguments: Any) -> Any:
        self.calls.append(("connect", *arguments))
        return "connection"

    def icmp_error(self, *arguments: Any) -> None:
        self.calls.append(("icmp_error", *arguments))

    def drop_link(self, link: Hashable) -> None:
        self.calls.append(("drop_link", link))

    def events(self) -> list[Any]:
        events, self.pending = self.pending, []
        return events

    def take_ready(self) -> Sequence[Any]:
        return ["ready"]

    def flush(self, now: float, sink: Any) -> None:
        self.calls.append(("flush", now))
        sink.packet("tcp", b"segment")

    def deadline(self) -> float | None:
        return self.next_deadline

    def handle_timer(self, now: float) -> None:
        self.calls.append(("handle_timer", now))


class KeepingSink:
    def __init__(self) -> None:
        self.packets: list[tuple[Hashable, bytes]] = []

    def packet(self, link: Hashable, packet: bytes) -> None:
        self.packets.append((link, packet))

    def burst(self, link: Hashable, packets: Rows) -> None:
        self.packets += [(link, bytes(view)) for view in packets.views]


class Wire:
    """A stack with both, and a few words to talk to it."""

    def __init__(self) -> None:
        self.tcp = NotedTcp()
        self.stack = Stack(
            [GATEWAY_V4, GATEWAY_V6],
            broadcast_addresses=[BROADCAST],
            random=bytes,
            tcp=self.tcp,  # type: ignore[arg-type]
        )

    def receive(self, packet: bytes, now: float = 0.0, link: Hashable = "device") -> list[Any]:
        """What happens on `packet`."""
        self.stack.receive(link, memoryview(packet), now)
        return self.stack.events()

    def sent(self, now: float = 0.0) -> list[bytes]:
        """What the stack itself sends now."""
        sink = KeepingSink()
        self.stack.flush(now, sink)
        return [packet for link, packet in sink.packets if link != "tcp"]

    def dropped(self) -> dict[str, int]:
        return {reason: count for reason, count in self.stack.drops.items() if count}


@pytest.fixture
def wire() -> Wire:
    return Wire()


@pytest.fixture(scope="session")
def new_wire() -> type[Wire]:
    """For tests that need more than one, or one per example."""
    return Wire


@pytest.fixture
def sink() -> KeepingSink:
    return KeepingSink()
