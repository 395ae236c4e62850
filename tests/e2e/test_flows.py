"""TCP, UDP and ping through the gateway, as a Linux client sees them."""

from __future__ import annotations

import errno
import hashlib
import os
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.e2e.conftest import CLOSED, DIGEST, ECHO, SOURCE, Device
from tests.lab.gateway import Gateway
from tests.lab.namespace import Namespace
from tests.lab.network import TARGET, TARGET6, Network
from tests.lab.servers import (
    TcpServer,
    UdpServer,
    pattern,
    receive_digest,
    receive_line,
    send_bytes,
)

TARGETS = pytest.mark.parametrize("address", [TARGET, TARGET6], ids=["ipv4", "ipv6"])
MEGABYTES = 100
EXPECTED = {
    count: hashlib.sha256(pattern(count)).hexdigest()
    for count in (MEGABYTES * 1_000_000, MEGABYTES * 1_000_000 // 8)
}


def upload(device: Device, address: str, count: int) -> str:
    """Sends `count` bytes and returns the SHA-256 of what the target has received."""
    with device.namespace.connect(address, DIGEST, timeout=60) as connection:
        send_bytes(connection, count)
        connection.shutdown(socket.SHUT_WR)
        return connection.recv(64, socket.MSG_WAITALL).decode()


def download(device: Device, address: str, count: int) -> str:
    """Receives `count` bytes and returns their SHA-256."""
    with device.namespace.connect(address, SOURCE, timeout=60) as connection:
        connection.sendall(b"%d\n" % count)
        return receive_digest(connection)


@TARGETS
def test_ping(phone: Device, address: str) -> None:
    answer = phone.namespace.run("ping", "-c", "3", "-i", "0.2", "-W", "2", address).stdout
    assert " 0% packet loss" in answer


def test_ping_of_the_gateway_itself(phone: Device) -> None:
    for address in ("10.90.0.1", "fd7a:115c:a1e0:9909::1"):
        answer = phone.namespace.run("ping", "-c", "2", "-i", "0.2", "-W", "2", address).stdout
        assert " 0% packet loss" in answer


def test_ping_is_answered_only_where_a_real_ping_was(phone: Device) -> None:
    answer = phone.namespace.run("ping", "-c", "1", "-W", "2", "10.72.0.99", check=False).stdout
    assert "1 received" not in answer


@TARGETS
@pytest.mark.parametrize("transfer", [upload, download])
@pytest.mark.timeout(60)
def test_one_stream_arrives_unchanged(phone: Device, transfer: object, address: str) -> None:
    assert callable(transfer)
    count = MEGABYTES * 1_000_000
    assert transfer(phone, address, count) == EXPECTED[count]


@pytest.mark.parametrize("transfer", [upload, download])
@pytest.mark.timeout(60)
def test_eight_streams_arrive_unchanged(phone: Device, transfer: object) -> None:
    assert callable(transfer)
    count = MEGABYTES * 1_000_000 // 8
    with ThreadPoolExecutor(8) as pool:
        digests = list(pool.map(lambda _: transfer(phone, TARGET, count), range(8)))
    assert digests == [EXPECTED[count]] * 8


def test_both_directions_at_once(phone: Device) -> None:
    count = MEGABYTES * 1_000_000 // 8
    with ThreadPoolExecutor(2) as pool:
        up = pool.submit(upload, phone, TARGET, count)
        down = pool.submit(download, phone, TARGET, count)
        assert (up.result(), down.result()) == (EXPECTED[count], EXPECTED[count])


def test_the_device_may_close_first(phone: Device) -> None:
    """The target answers after the device has ended its side."""
    with phone.namespace.connect(TARGET, DIGEST) as connection:
        connection.sendall(b"a question")
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(64, socket.MSG_WAITALL).decode()
        assert answer == hashlib.sha256(b"a question").hexdigest()
        assert connection.recv(1) == b""


def test_the_target_may_close_first(phone: Device, target: Namespace) -> None:
    """The device goes on sending after the target has ended its side."""
    received: list[bytes] = []

    def end_then_listen(connection: socket.socket) -> None:
        connection.sendall(b"that was all")
        connection.shutdown(socket.SHUT_WR)
        received.append(receive_line(connection))

    server = TcpServer(target, TARGET, 7100, end_then_listen)
    with phone.namespace.connect(TARGET, 7100) as connection:
        assert connection.recv(100, socket.MSG_WAITALL) == b"that was all"
        time.sleep(0.2)
        connection.sendall(b"but I have more\n")
        time.sleep(0.5)
    server.close()
    assert received == [b"but I have more\n"]


def test_a_reset_by_the_target_resets_the_device(phone: Device, target: Namespace) -> None:
    def reset(connection: socket.socket) -> None:
        connection.recv(1)
        linger = b"\x01\0\0\0\0\0\0\0"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    server = TcpServer(target, TARGET, 7101, reset)
    with phone.namespace.connect(TARGET, 7101) as connection:
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    server.close()


@TARGETS
def test_a_refused_connection_is_refused_at_once(phone: Device, address: str) -> None:
    took = []
    for _ in range(9):
        started = time.perf_counter()
        with pytest.raises(ConnectionRefusedError):
            phone.namespace.connect(address, CLOSED)
        took.append(time.perf_counter() - started)
    assert statistics.median(took) < 0.1


def test_an_unreachable_host_is_reported(phone: Device, network: Network) -> None:
    network.gateway.ip("route", "replace", "unreachable", "10.72.200.0/24")
    with pytest.raises(OSError) as caught:  # noqa: PT011
        phone.namespace.connect("10.72.200.1", ECHO)
    assert caught.value.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH)


@TARGETS
@pytest.mark.parametrize("size", [1, 64, 1200, 1400, 3000, 8000])
def test_udp_of_many_sizes(phone: Device, address: str, size: int) -> None:
    with phone.namespace.udp(address, ECHO) as connection:
        payload = os.urandom(size)
        connection.send(payload)
        assert connection.recv(65535) == payload


def test_a_udp_answer_of_the_greatest_size(phone: Device, target: Namespace) -> None:
    server = UdpServer(target, TARGET, 7102, lambda _: pattern(65_507))
    with phone.namespace.udp(TARGET, 7102) as connection:
        connection.send(b"?")
        assert connection.recv(65535) == pattern(65_507)
    server.close()


@TARGETS
def test_a_closed_udp_port_is_reported(phone: Device, address: str) -> None:
    with phone.namespace.udp(address, CLOSED) as connection:
        connection.send(b"anyone?")
        with pytest.raises(ConnectionRefusedError):
            connection.recv(1)


def test_udp_mapping_is_independent_of_the_endpoint(phone: Device, target: Namespace) -> None:
    """One socket of the device is one socket of the gateway, whomever it talks to (RFC 4787)."""
    servers = [UdpServer(target, TARGET, port) for port in (7103, 7104)]
    with phone.namespace.open_socket("udp") as sender:
        for port in (7103, 7104):
            sender.sendto(b"who am I?", (TARGET, port))
            assert sender.recvfrom(100) == (b"who am I?", (TARGET, port))
    sources = [server.sources[0] for server in servers]
    for server in servers:
        server.close()
    assert sources[0] == sources[1]


def resident(process_id: int) -> int:
    """Resident memory in bytes."""
    status = Path(f"/proc/{process_id}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) * 1024


@pytest.mark.parametrize("direction", ["down", "up"])
def test_a_slow_reader_stops_the_sender(
    gateway: Gateway, phone: Device, target: Namespace, direction: str
) -> None:
    """Back-pressure end to end: memory stays bounded, and nothing is lost."""
    sent = [0]
    released: list[bool] = []

    def send_until_stuck(connection: socket.socket) -> None:
        connection.settimeout(1.5)
        try:
            while sent[0] < 200_000_000:
                sent[0] += connection.send(bytes(1 << 16))
        except TimeoutError:
            pass

    def hold(connection: socket.socket) -> None:
        while not released:
            time.sleep(0.05)
        while connection.recv(1 << 18):
            pass

    server = TcpServer(target, TARGET, 7105, send_until_stuck if direction == "down" else hold)
    before = resident(gateway.process.pid)
    with phone.namespace.connect(TARGET, 7105) as connection:
        if direction == "up":
            send_until_stuck(connection)
        else:
            time.sleep(3)
        grown = resident(gateway.process.pid) - before
        released.append(True)
        if direction == "down":
            received = 0
            while data := connection.recv(1 << 18):
                received += len(data)
            assert received == sent[0]
    server.close()
    assert sent[0] < 100_000_000
    assert grown < 40_000_000
