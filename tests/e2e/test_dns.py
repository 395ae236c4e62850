"""Names through the tunnel, asked by dig."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Device
from tests.lab.servers import DnsServer

SERVERS = pytest.mark.parametrize("server", ["10.90.0.1", "fd7a:115c:a1e0:9909::1"])


def dig(device: Device, server: str, *question: str) -> str:
    """What dig prints: one try, two seconds."""
    command = ("dig", f"@{server}", "+tries=1", "+timeout=2", *question)
    return device.namespace.run(*command, check=False).stdout


@SERVERS
@pytest.mark.parametrize("transport", ["+notcp", "+tcp"])
def test_a_name_is_resolved(phone: Device, server: str, transport: str) -> None:
    assert dig(phone, server, transport, "+short", "small.example", "A") == "10.72.0.2\n"
    assert dig(phone, server, transport, "+short", "small.example", "AAAA") == "fd72::2\n"


def test_a_long_answer_is_truncated_over_udp(phone: Device) -> None:
    answer = dig(phone, "10.90.0.1", "+ignore", "big.example", "TXT")
    assert "flags: qr tc" in answer


@SERVERS
def test_a_long_answer_comes_whole_over_tcp(phone: Device, server: str) -> None:
    answer = dig(phone, server, "+short", "big.example", "TXT")
    assert len(answer.splitlines()) == 30


def test_a_name_that_does_not_exist(phone: Device) -> None:
    assert "status: NXDOMAIN" in dig(phone, "10.90.0.1", "nothing.example", "A")


def test_answers_are_cached(phone: Device, upstream: DnsServer) -> None:
    for _ in range(3):
        dig(phone, "10.90.0.1", "+short", "small.example", "A")
    assert upstream.questions.count("small.example. A") <= 1


def test_the_upstream_may_be_slow_without_stopping_others(phone: Device) -> None:
    """The profile's own DNS line names the gateway."""
    assert "10.90.0.1" in phone.client.profile.dns


def test_devices_have_names(phone: Device) -> None:
    name = f"{phone.name}.lopower.internal"
    assert dig(phone, "10.90.0.1", "+short", name, "A").strip() == phone.address(4)
    assert dig(phone, "10.90.0.1", "+short", name, "AAAA").strip() == phone.address(6)
    assert dig(phone, "10.90.0.1", "+short", "-x", phone.address(4)).strip() == f"{name}."
