"""A gateway's operations over its socket, and commands beside gateways that come and go."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lopower.api import client as client_module
from lopower.api.access import Access, rule_routes
from lopower.api.client import POINTER, SOCKET, ControlClient
from lopower.api.control import ControlServer
from lopower.devices.administration import OPERATIONS, Administration
from lopower.devices.errors import Conflict, InUse, NotFound, UserError
from lopower.devices.hosts import HostPort
from lopower.devices.lock import DataLock
from lopower.devices.registry import Registry
from lopower.devices.settings import Settings


@contextmanager
def gateway(data: Path) -> Iterator[Administration]:
    """A gateway as far as its control socket goes, in a thread of its own."""
    with DataLock(data, "gateway").acquire(), Registry(data) as registry:
        administration = Administration(
            registry,
            routes=rule_routes(registry.settings()),
            endpoint=HostPort("10.0.0.1", 51820),
        )
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever)
        thread.start()
        server = ControlServer(administration, data)
        try:
            asyncio.run_coroutine_threadsafe(server.start(), loop).result(10)
            yield administration
        finally:
            asyncio.run_coroutine_threadsafe(server.stop(), loop).result(10)
            loop.call_soon_threadsafe(loop.stop)
            thread.join()
            loop.close()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def call(data: Path, operation: str, **arguments: Any) -> Any:
    client = ControlClient.connect(data)
    assert client is not None
    try:
        return client.call(operation, arguments)
    finally:
        client.close()


def test_operations_and_refusals(data: Path) -> None:
    with gateway(data) as administration:
        enrolled = call(data, "enroll", name="lamp")
        assert enrolled["endpoint"] == "10.0.0.1:51820"
        assert call(data, "show", name="lamp")["id"] == enrolled["id"]
        assert [device.name for device in administration.registry.devices()] == ["lamp"]
        with pytest.raises(NotFound, match="no device called 'ghost'"):
            call(data, "revoke", name="ghost")
        with pytest.raises(Conflict, match="already a device"):
            call(data, "enroll", name="lamp")
        with pytest.raises(UserError, match="not a protocol"):
            call(data, "rules", name="lamp", rules=["x/y"])


def test_only_the_owner_reaches_the_socket(data: Path) -> None:
    with gateway(data):
        path = data / SOCKET
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(data.stat().st_mode) == 0o700
    assert not path.exists()


def test_what_a_killed_gateway_left_is_cleared_away(data: Path) -> None:
    data.mkdir()
    leftover = socket.socket(socket.AF_UNIX)
    leftover.bind(str(data / SOCKET))
    leftover.close()
    assert ControlClient.connect(data) is None
    with gateway(data):
        assert call(data, "devices") == []


def test_a_path_too_long_for_a_socket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = tmp_path / ("x" * 120)
    assert ControlClient.connect(data) is None
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    with gateway(data):
        pointer = Path((data / POINTER).read_text())
        assert stat.S_IMODE(pointer.parent.stat().st_mode) == 0o700
        assert call(data, "devices") == []
        killed = pointer.parent / "as a killed gateway would leave it"
        killed.touch()
    assert not pointer.parent.exists()
    assert not (data / POINTER).exists()


def request(data: Path, method: str, path: str, body: str) -> tuple[int, str, Any]:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(data / SOCKET))
    connection.request(method, path, body)
    response = connection.getresponse()
    content, text = response.headers["Content-Type"], response.read()
    connection.close()
    return response.status, content, json.loads(text) if "json" in content else text


def test_problems_are_rfc_9457(data: Path) -> None:
    with gateway(data):
        status, content, body = request(data, "POST", "/v1/show", '{"name": "ghost"}')
        assert (status, body["status"], body["exit_code"]) == (404, 404, 3)
        assert content.startswith("application/problem+json")
        assert body["detail"] == "There is no device called 'ghost'."
        assert request(data, "POST", "/v1/devices", "")[0] == 200
        assert request(data, "POST", "/v1/devices", "{")[0] == 400
        assert request(data, "POST", "/v1/devices", "[]")[0] == 422
        assert request(data, "POST", "/v1/nothing", "{}")[0] == 404
        assert request(data, "GET", "/v1/devices", "")[0] == 405
        assert request(data, "POST", "/v1/devices", "x" * 300_000)[0] == 413


def test_a_defect_is_logged_and_not_explained(
    data: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def explode(administration: Administration) -> None:
        raise RuntimeError("secret detail")

    monkeypatch.setitem(OPERATIONS, "status", (explode, OPERATIONS["status"][1]))
    with gateway(data), caplog.at_level(logging.ERROR):
        with pytest.raises(UserError, match="its log says why") as refused:
            call(data, "status")
        assert "secret" not in str(refused.value)
    assert "secret detail" in caplog.text


CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


def mute(data: Path, words: bytes, silence: float) -> threading.Thread:
    """Something on the socket that is not a well gateway."""
    data.mkdir(exist_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(data / SOCKET))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        connection.recv(4096)
        connection.sendall(words)
        time.sleep(silence)
        connection.close()
        listener.close()
        (data / SOCKET).unlink()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_a_gateway_that_dies_over_an_operation(data: Path) -> None:
    thread = mute(data, CONTINUE, 0)
    with pytest.raises(InUse, match="went away before it answered"):
        call(data, "devices")
    thread.join()


def test_a_gateway_that_goes_before_it_has_begun(data: Path) -> None:
    thread = mute(data, b"", 0)
    with Access(data) as access:
        assert access.call("devices", {}) == [], "done by the command itself"
        assert access.local
    thread.join()


def test_a_gateway_that_is_stuck(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_module, "TIMEOUT", 0.05)
    for words in (b"", CONTINUE):
        thread = mute(data, words, 0.2)
        with pytest.raises(InUse, match="did not answer within"):
            call(data, "devices")
        thread.join()


def test_a_gateway_of_somebody_else(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(socket.socket):
        def connect(self, address: object) -> None:
            raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(client_module.socket, "socket", Forbidden)
    with pytest.raises(InUse, match=r"Cannot reach the gateway .*: Permission denied"):
        ControlClient.connect(data)


def test_a_command_works_with_and_without_a_gateway(data: Path) -> None:
    with Access(data) as administration:
        administration.call("enroll", {"name": "alone"})
        assert administration.local
    with gateway(data), Access(data) as administration:
        administration.call("enroll", {"name": "together"})
        assert not administration.local
    with Access(data) as administration:
        names = [device["name"] for device in administration.call("devices", {})]
    assert names == ["alone", "together"]


def test_a_command_waits_for_a_gateway_that_is_starting(data: Path) -> None:
    with (
        DataLock(data, "gateway").acquire(),
        pytest.raises(InUse, match="A gateway"),
        Access(data, patience=0.1) as access,
    ):
        access.call("devices", {})


def test_ipv4_as_this_process_is_told(data: Path) -> None:
    with Access(data, ipv4=False) as administration:
        enrolled = administration.call("enroll", {"name": "lamp"})
    assert enrolled["addresses"] == ["fd7a:115c:a1e0:9909::2"]


def test_rules_give_their_prefixes() -> None:
    prefixes = rule_routes(Settings())(("192.168.7.0/24", "nas.example:80/tcp"))
    assert "192.168.7.0/24" in map(str, prefixes)


ENROL = """
import sys
from pathlib import Path
from lopower.api.access import Access
for number in range(int(sys.argv[3])):
    with Access(Path(sys.argv[1])) as administration:
        administration.call("enroll", {"name": f"{sys.argv[2]}-{number}"})
"""


def test_commands_beside_gateways_that_come_and_go_lose_nothing(data: Path) -> None:
    count, each = 3, 12
    commands = [
        subprocess.Popen(
            [sys.executable, "-c", ENROL, str(data), f"p{number}", str(each)],
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(count)
    ]
    while any(command.poll() is None for command in commands):
        with gateway(data) as administration:
            time.sleep(0.05)
            administration.call("devices", {})
        time.sleep(0.05)
    for command in commands:
        _, errors = command.communicate()
        assert command.returncode == 0, errors
    with Registry(data) as registry:
        devices = registry.devices()
    assert {device.name for device in devices} == {
        f"p{number}-{index}" for number in range(count) for index in range(each)
    }
    assert len({device.ipv4 for device in devices}) == count * each
