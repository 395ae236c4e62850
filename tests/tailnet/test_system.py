"""The system backend against real sockets on loopback."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from lopower.shell.poller import READABLE, Poller
from lopower.tailnet import host
from lopower.tailnet.backend import DialError
from lopower.tailnet.system import SystemBackend

LOOPBACK = bytes([127, 0, 0, 1])
# A link-local address without its link: the kernel refuses it, nothing leaves the host.
NOWHERE = socket.inet_pton(socket.AF_INET6, "fe80::1")


def run(test: Callable[[SystemBackend], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        poller = Poller(loop, lambda: None)
        backend = SystemBackend(loop, poller)
        try:
            async with asyncio.timeout(10):
                await test(backend)
        finally:
            backend.close()
            poller.close()

    asyncio.run(main())


async def dial(backend: SystemBackend, address: bytes, port: int) -> socket.socket | DialError:
    future: asyncio.Future[socket.socket | DialError] = asyncio.get_running_loop().create_future()
    backend.dial_tcp(address, port, future.set_result)
    return await future


class Received:
    """Collects what a UDP port brings."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    def on_datagram(self, source: bytes, port: int, payload: bytes) -> None:
        self.queue.put_nowait((source, port, payload))

    def on_udp_error(self, destination: bytes, port: int, payload: bytes, error: DialError) -> None:
        self.queue.put_nowait((destination, port, payload, error))


def test_a_dial_gives_a_watched_socket() -> None:
    class Relay:
        def __init__(self) -> None:
            self.readable = asyncio.Event()

        def on_socket(self, mask: int) -> None:
            if mask & READABLE:
                self.readable.set()

    async def test(backend: SystemBackend) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            got = await dial(backend, LOOPBACK, server.getsockname()[1])
            assert isinstance(got, socket.socket)
            relay = Relay()
            backend.poller.hand_over(got.fileno(), relay)
            theirs, _ = server.accept()
            theirs.sendall(b"hello")
            await relay.readable.wait()
            assert got.recv(10) == b"hello"
            backend.poller.forget(got.fileno())
            got.close()
            theirs.close()

    run(test)


def test_a_closed_port_is_refused() -> None:
    async def test(backend: SystemBackend) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        assert await dial(backend, LOOPBACK, port) is DialError.REFUSED
        assert len(backend.poller) == 0

    run(test)


def test_no_route_is_unreachable() -> None:
    async def test(backend: SystemBackend) -> None:
        assert await dial(backend, NOWHERE, 9) is DialError.UNREACHABLE

    run(test)


def test_a_cancelled_dial_says_nothing() -> None:
    async def test(backend: SystemBackend) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            called: list[object] = []
            pending = backend.dial_tcp(LOOPBACK, server.getsockname()[1], called.append)
            if pending is not None:
                pending.cancel()
                await asyncio.sleep(0.05)
                assert not called
            assert len(backend.poller) == 0

    run(test)


@pytest.mark.parametrize("size", [0, 1, 1400, 8000, 65_507])
def test_udp_both_ways(size: int) -> None:
    async def test(backend: SystemBackend) -> None:
        received = Received()
        port = backend.open_udp(received)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            port.send(LOOPBACK, peer.getsockname()[1], bytes(size))
            data, name = peer.recvfrom(65_536)
            assert len(data) == size
            peer.sendto(data[::-1], name)
            assert await received.queue.get() == (LOOPBACK, peer.getsockname()[1], bytes(size))
        port.close()
        assert len(backend.poller) == 0

    run(test)


def test_a_closed_udp_port_is_reported_with_its_destination() -> None:
    async def test(backend: SystemBackend) -> None:
        received = Received()
        port = backend.open_udp(received)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            peer.bind(("127.0.0.1", 0))
            closed = peer.getsockname()[1]
        port.send(LOOPBACK, closed, b"anyone?")
        assert await received.queue.get() == (LOOPBACK, closed, b"anyone?", DialError.REFUSED)
        port.close()

    run(test)


def test_one_destinations_error_does_not_hide_anothers_answer() -> None:
    async def test(backend: SystemBackend) -> None:
        received = Received()
        port = backend.open_udp(received)
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as closed,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer,
        ):
            closed.bind(("127.0.0.1", 0))
            dead = closed.getsockname()[1]
            closed.close()
            peer.bind(("127.0.0.1", 0))
            peer.settimeout(5)
            for number in range(5):
                port.send(LOOPBACK, dead, b"%d" % number)
                port.send(LOOPBACK, peer.getsockname()[1], b"%d" % number)
            assert [peer.recv(10) for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]
        port.close()

    run(test)


def test_pings_are_answered_only_by_real_hosts() -> None:
    async def test(backend: SystemBackend) -> None:
        answers: asyncio.Queue[bytes] = asyncio.Queue()
        backend.ping(LOOPBACK, b"payload", lambda: answers.put_nowait(LOOPBACK))
        if backend._pinger._barred:
            pytest.skip("this host lets us send no pings")
        assert await answers.get() == LOOPBACK
        backend.ping(NOWHERE, b"", lambda: answers.put_nowait(b"ghost"))
        await asyncio.sleep(0.1)
        assert answers.empty()

    run(test)


def test_the_host_knows_its_own_addresses() -> None:
    seen = host.look()
    assert LOOPBACK in seen.addresses
    assert not any(network.is_loopback for network in seen.networks)
