"""Two stacks with their real TCP, face to face: the room as its neighbours see it."""

from __future__ import annotations

from collections.abc import Hashable

import numpy as np
import pytest

from lopower.bursts import Rows
from lopower.netstack import icmp
from lopower.netstack.events import Unreachable
from lopower.netstack.stack import Stack, TcpConnection, TcpRequest

DEVICE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
REMOTE = {4: bytes([192, 0, 2, 7]), 6: bytes.fromhex("20010db8") + bytes(11) + b"\x07"}
VERSIONS = pytest.mark.parametrize("version", [4, 6])
BURSTS = pytest.mark.parametrize("bursts", [True, False])


class Cable:
    """Carries what one stack sends to the other."""

    def __init__(self, to: Stack, *, bursts: bool) -> None:
        self.to = to
        self.bursts = bursts
        self.taken = 0
        self.queue: list[list[bytes]] = []

    def packet(self, link: Hashable, packet: bytes) -> None:
        self.queue.append([packet])

    def burst(self, link: Hashable, packets: Rows) -> None:
        assert packets.matrix.shape[1] % 16 == 0
        self.queue.append([bytes(view) for view in packets.views])

    def deliver(self, now: float) -> None:
        queue, self.queue = self.queue, []
        for packets in queue:
            size = len(packets[0])
            matrix = np.frombuffer(b"".join(packets), np.uint8).reshape(-1, size)
            if self.bursts and self.to.receive_burst("cable", matrix, now):
                self.taken += len(packets)
                continue
            for packet in packets:
                self.to.receive("cable", memoryview(packet), now)


class Bench:
    def __init__(self, *, bursts: bool) -> None:
        self.now = 1.0
        self.device, self.gateway = Stack(), Stack()
        self.up = Cable(self.gateway, bursts=bursts)
        self.down = Cable(self.device, bursts=bursts)

    def exchange(self) -> None:
        for _ in range(3):
            self.now += 0.001
            for stack, cable in ((self.device, self.up), (self.gateway, self.down)):
                stack.flush(self.now, cable)
                cable.deliver(self.now)
                deadline = stack.deadline()
                if deadline is not None and deadline <= self.now:
                    stack.handle_timer(self.now)

    def connect(self, version: int) -> tuple[TcpConnection, TcpConnection]:
        ends = (DEVICE[version], 40000), (REMOTE[version], 80)
        connection = self.device.connect("cable", *ends, self.now)
        self.exchange()
        (request,) = self.gateway.events()
        assert isinstance(request, TcpRequest)
        assert (request.connection.remote, request.connection.local) == ends
        request.connection.accept(self.now)
        self.exchange()
        assert connection in self.device.take_ready()
        assert connection.established
        return connection, request.connection

    def carry(self, source: TcpConnection, sink: TcpConnection, data: bytes) -> bytes:
        sent, received = 0, bytearray()
        for _ in range(2000):
            sent += source.write(data[sent:], self.now)
            self.exchange()
            received += sink.read()
            if len(received) >= len(data):
                break
        return bytes(received)


@VERSIONS
@BURSTS
def test_bulk_in_both_directions(version: int, bursts: bool) -> None:
    bench = Bench(bursts=bursts)
    device, gateway = bench.connect(version)
    data = np.random.default_rng(version).bytes(500_000)
    assert bench.carry(device, gateway, data) == data
    assert bench.carry(gateway, device, data[::-1]) == data[::-1]
    for cable in (bench.up, bench.down):
        assert (cable.taken > 300) == bursts
    device.close(bench.now)
    bench.exchange()
    assert gateway.eof
    gateway.close(bench.now)
    bench.exchange()
    assert gateway.closed
    assert not any(stack.drops for stack in (bench.device, bench.gateway))


@VERSIONS
def test_refused_and_unreachable(version: int) -> None:
    bench = Bench(bursts=True)
    ends = (DEVICE[version], 40000), (REMOTE[version], 80)
    refused = bench.device.connect("cable", *ends, bench.now)
    bench.exchange()
    (request,) = bench.gateway.events()
    assert isinstance(request, TcpRequest)
    request.connection.refuse(bench.now)
    bench.exchange()
    assert refused.closed
    assert refused.error is not None


@VERSIONS
def test_an_icmp_error_ends_an_attempt(version: int) -> None:
    bench = Bench(bursts=True)
    ends = (REMOTE[version], 40000), (DEVICE[version], 6053)
    attempt = bench.gateway.connect("cable", *ends, bench.now)
    bench.gateway.flush(bench.now, bench.down)
    ((syn,),) = bench.down.queue
    error = icmp.unreachable(syn, Unreachable.HOST, None)
    assert error is not None
    bench.gateway.receive("another", memoryview(error), bench.now)
    assert not attempt.closed  # another device's word about this one's flow
    bench.gateway.receive("cable", memoryview(error), bench.now)
    assert attempt.closed
    assert attempt.error is not None


def test_a_removed_device_takes_its_connections_with_it() -> None:
    bench = Bench(bursts=True)
    _, gateway = bench.connect(4)
    bench.gateway.drop_link("cable")
    assert gateway.closed
    assert gateway in bench.gateway.take_ready()
