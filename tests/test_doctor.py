"""The doctor finds what is wrong, and says what to do."""

from __future__ import annotations

import os
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from lopower import doctor
from lopower.devices.registry import FILE, Registry
from lopower.doctor import CHECKS, Check, Situation


@pytest.fixture
def data(tmp_path: Path) -> Path:
    Registry(tmp_path / "data").close()
    return tmp_path / "data"


@pytest.fixture
def situation(data: Path) -> Situation:
    return Situation(data, 0, "127.0.0.1", {})


def changed(situation: Situation, **values: Any) -> Situation:
    return Situation(**{f: getattr(situation, f) for f in situation.__slots__} | values)


def test_every_check_runs_and_finds_a_sentence(situation: Situation) -> None:
    found = doctor.examine(situation)
    assert len(found) == len(CHECKS)
    assert len({check.name for check in found}) == len(CHECKS)
    for check in found:
        assert check.sentence.endswith(".")
        assert check.state == "ok" or check.advice
        assert check.as_dict()["name"] == check.name


def test_a_check_that_breaks_is_a_finding(situation: Situation) -> None:
    def memory_lane(situation: Situation) -> Check:
        raise OSError(5, "Input/output error")

    found = doctor._guarded(memory_lane, situation)
    assert (found.name, found.state) == ("memory-lane", "warn")
    assert "Input/output error" in found.sentence


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_a_taken_port_and_who_has_it(situation: Situation, family: socket.AddressFamily) -> None:
    with socket.socket(family, socket.SOCK_DGRAM) as holder:
        holder.bind(("", 0))
        number = holder.getsockname()[1]
        found = doctor.port(changed(situation, port=number))
        assert found.state == "fail"
        assert f"UDP port {number} is taken by " in found.sentence
        assert f"(process {os.getpid()})" in found.sentence
    assert doctor.port(changed(situation, port=number)).state == "ok"
    assert doctor.port_holder(number) is None


def test_the_gateways_own_port_is_well(situation: Situation) -> None:
    found = doctor.port(changed(situation, port=7, status={"running": True}))
    assert found.sentence == "The gateway listens on UDP port 7."


def test_a_port_for_root_alone(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(doctor, "_bind", forbidden)
    assert "needs more privileges" in doctor.port(situation).sentence


def test_an_endpoint_of_ours(situation: Situation) -> None:
    assert doctor.endpoint(situation).state == "ok"


def test_an_endpoint_elsewhere(situation: Situation) -> None:
    """Documentation addresses: nobody's, but there may be a route."""
    found = doctor.endpoint(changed(situation, endpoint="198.51.100.7:5"))
    assert found.state in ("warn", "fail")
    assert "198.51.100.7:5" in found.sentence


def test_an_endpoint_without_a_route(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Unreachable(socket.socket):
        def connect_ex(self, address: object) -> int:
            return 101

    monkeypatch.setattr(doctor.socket, "socket", Unreachable)
    assert "no route" in doctor.endpoint(situation).sentence


def test_an_endpoint_that_does_not_resolve(
    situation: Situation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object, **options: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(doctor.socket, "getaddrinfo", fail)
    found = doctor.endpoint(changed(situation, endpoint="nowhere.example"))
    assert found.sentence == "The name nowhere.example cannot be resolved."


def test_no_address_at_all(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "guess_host", lambda: None)
    assert doctor.endpoint(changed(situation, endpoint=None)).state == "fail"
    monkeypatch.setattr(doctor, "guess_host", lambda: "127.0.0.1")
    assert "guessed" in doctor.endpoint(changed(situation, endpoint=None)).sentence


def test_a_clock_in_another_year(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.time, "time", lambda: 86400.0)
    assert doctor.clock(situation).sentence == "The clock shows the year 1970."


def test_a_clock_that_went_back(situation: Situation, data: Path) -> None:
    ahead = time.time() + 3600
    os.utime(data / FILE, (ahead, ahead))
    assert "the clock has gone back" in doctor.clock(situation).sentence


@pytest.mark.parametrize(("unsure", "state"), [(True, "warn"), (False, "ok")])
def test_a_clock_nobody_sets(
    situation: Situation, monkeypatch: pytest.MonkeyPatch, unsure: bool, state: str
) -> None:
    monkeypatch.setattr(doctor, "_unsynchronised", lambda: unsure)
    monkeypatch.setattr(doctor, "EARLIEST", 0)
    assert doctor.clock(situation).state == state


def test_small_buffers(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "BUFFER", 1 << 60)
    found = doctor.buffers(situation)
    assert found.state == "warn"
    assert "net.core.rmem_max" in found.advice
    granted = changed(situation, status={"receive_buffer": 1 << 61})
    assert doctor.buffers(granted).state == "ok"


def test_a_registry_that_is_ill(situation: Situation, data: Path) -> None:
    assert doctor.registry(situation).state == "ok"
    (data / FILE).write_bytes(b"trash")
    assert doctor.registry(situation).state == "fail"
    (data / FILE).unlink()
    assert "no registry" in doctor.registry(situation).sentence


def test_permissions(situation: Situation, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.permissions(situation).state == "ok"
    data.chmod(0o755)
    assert doctor.permissions(situation).state == "warn"
    (data / FILE).chmod(0o644)
    assert "Other users can read the keys" in doctor.permissions(situation).sentence
    elsewhere = changed(situation, data=data / "elsewhere")
    assert "will be made" in doctor.permissions(elsewhere).sentence
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: False)
    assert doctor.permissions(situation).state == "fail"


def test_ipv6_switched_off(situation: Situation, monkeypatch: pytest.MonkeyPatch) -> None:
    class Without(socket.socket):
        def __init__(self, family: int, kind: int) -> None:
            raise OSError(97, "Address family not supported by protocol")

    monkeypatch.setattr(doctor.socket, "socket", Without)
    assert doctor.ipv6(situation).state == "warn"
    doctor._bind(0)  # without IPv4 and IPv6 there is nothing to be taken


def knock(kind: str) -> dict[str, Any]:
    return {"kind": kind, "source": "10.0.0.9:1234", "count": 3, "last": 0.0}


def test_knocks(situation: Situation) -> None:
    assert doctor.knocks(situation).state == "ok"
    found = doctor.knocks(changed(situation, knocks=[knock("unknown public key")]))
    assert found.state == "warn"
    assert "10.0.0.9:1234 knocks" in found.sentence
    found = doctor.knocks(changed(situation, knocks=[knock("wrong server key")]))
    assert found.state == "fail"
    assert "another server key" in found.sentence


def test_silent_devices_and_wrong_clocks(situation: Situation) -> None:
    devices: list[dict[str, Any]] = [
        {"name": f"d{number}", "unanswered_since": 5.0, "clock_offset": -3600.0}
        for number in range(6)
    ]
    ill = changed(situation, devices=[*devices, {"name": "well", "clock_offset": None}])
    found = doctor.handshakes(ill)
    assert found.sentence == "No answer to handshakes from: d0, d1, d2, d3, d4 …."
    found = doctor.device_clocks(ill)
    assert "d0 (-3600 s)" in found.sentence
    assert "well" not in found.sentence
