"""What happens to a device over time: it moves, the gateway dies, the user changes their mind."""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from tests.e2e.conftest import ALLOW, ECHO, Device, MakeDevice
from tests.lab.client import wait_for
from tests.lab.gateway import Gateway
from tests.lab.namespace import Namespace
from tests.lab.network import GATEWAY, GATEWAY6, TARGET, Network

NUMBERS = itertools.count(1)


def answers(namespace: Namespace, timeout: float = 0.25) -> bool:
    """Whether a datagram to the target comes back."""
    with suppress(OSError), namespace.udp(TARGET, ECHO, timeout) as connection:
        question = os.urandom(8)
        connection.send(question)
        return connection.recv(100) == question
    return False


def exchange(connection: object, word: bytes) -> bytes:
    connection.sendall(word)  # type: ignore[attr-defined]
    return bytes(connection.recv(len(word)))  # type: ignore[attr-defined]


def point_at(device: Device, endpoint: str) -> None:
    peer = device.client.wg("show", device.client.device, "peers").strip()
    device.client.set("peer", peer, "endpoint", endpoint)


@pytest.fixture
def nomad(gateway: Gateway, make_device: MakeDevice) -> Device:
    """A device of this test alone."""
    return make_device(gateway, f"nomad-{next(NUMBERS)}")


def test_a_connection_survives_a_new_source_port(nomad: Device) -> None:
    with nomad.namespace.connect(TARGET, ECHO) as connection:
        assert exchange(connection, b"here") == b"here"
        nomad.client.set("listen-port", "40123")
        assert exchange(connection, b"moved") == b"moved"


def test_a_connection_survives_a_new_address(nomad: Device, gateway: Gateway) -> None:
    with nomad.namespace.connect(TARGET, ECHO) as connection:
        assert exchange(connection, b"here") == b"here"
        old = nomad.namespace.ip("-4", "-o", "address", "show", "dev", "eth0").split()[3]
        nomad.namespace.ip("address", "delete", old, "dev", "eth0")
        nomad.namespace.ip("address", "add", "198.18.1.150/24", "dev", "eth0")
        # Debian's wireguard-go clings to the old source address until it is told again.
        point_at(nomad, f"{GATEWAY}:{gateway.port}")
        assert exchange(connection, b"moved") == b"moved"
    wait_for(
        lambda: "198.18.1.150" in gateway.device(nomad.name)["endpoint"],
        "the registry to know the new endpoint",
    )


def test_a_connection_survives_a_change_to_ipv6_outside(nomad: Device, gateway: Gateway) -> None:
    with nomad.namespace.connect(TARGET, ECHO) as connection:
        assert exchange(connection, b"four") == b"four"
        point_at(nomad, f"[{GATEWAY6}]:{gateway.port}")
        assert exchange(connection, b"six") == b"six"


def test_killed_and_restarted_it_works_within_two_seconds(
    make_gateway: Callable[..., Gateway], make_device: MakeDevice
) -> None:
    """The device waits for nothing: the gateway comes to it."""
    gateway = make_gateway(*ALLOW)
    device = make_device(gateway, "survivor", "debian")
    assert answers(device.namespace, 5)
    wait_for(lambda: gateway.device("survivor")["endpoint"], "the endpoint to be remembered")
    late = gateway.enroll("enrolled-just-before")
    facts = ("id", "name", "addresses", "public_key")
    before = [[device[fact] for fact in facts] for device in gateway.ask("devices")]
    gateway.kill()
    gateway.start()
    listening = time.monotonic()
    wait_for(lambda: answers(device.namespace), "the device to work again")
    took = time.monotonic() - listening
    after = [[device[fact] for fact in facts] for device in gateway.ask("devices")]
    assert after == before
    assert late["name"] in [name for _, name, *_ in after]
    assert took < 2


def test_killed_many_times_the_registry_is_whole(make_gateway: Callable[..., Gateway]) -> None:
    gateway = make_gateway(*ALLOW)
    for number in range(3):
        gateway.enroll(f"device-{number}")
        gateway.kill()
        gateway.start()
    assert [device["name"] for device in gateway.ask("devices")] == [
        f"device-{number}" for number in range(3)
    ]


def test_a_disabled_device_is_cut_off_and_can_come_back(nomad: Device, gateway: Gateway) -> None:
    assert answers(nomad.namespace, 5)
    gateway.cli("disable", nomad.name)
    wait_for(lambda: not answers(nomad.namespace), "the device to be cut off", 3)
    gateway.cli("enable", nomad.name)
    wait_for(lambda: answers(nomad.namespace), "the device to be back", 30)


def test_a_revoked_device_is_cut_off_for_good(nomad: Device, gateway: Gateway) -> None:
    with nomad.namespace.connect(TARGET, ECHO, timeout=2) as connection:
        assert exchange(connection, b"before") == b"before"
        gateway.cli("revoke", nomad.name)
        wait_for(lambda: not answers(nomad.namespace), "the device to be cut off", 3)
        with pytest.raises(OSError):  # noqa: PT011
            exchange(connection, b"after")
    assert nomad.name not in [device["name"] for device in gateway.ask("devices")]


def test_changes_to_others_disturb_nobody(nomad: Device, gateway: Gateway) -> None:
    with nomad.namespace.connect(TARGET, ECHO) as connection:
        assert exchange(connection, b"before") == b"before"
        handshake = nomad.client.last_handshake()
        gateway.enroll("bystander")
        for change in (("disable",), ("enable",), ("rename", "onlooker")):
            gateway.cli(change[0], "bystander", *change[1:])
            assert exchange(connection, change[0].encode()) == change[0].encode()
        gateway.cli("revoke", "onlooker")
        assert exchange(connection, b"after") == b"after"
        assert nomad.client.last_handshake() == handshake


def test_a_private_key_is_erased_at_the_first_handshake(nomad: Device, gateway: Gateway) -> None:
    text = nomad.client.profile.values["privatekey"][0]
    assert answers(nomad.namespace, 5)

    def gone() -> bool:
        files = [path for path in gateway.data.rglob("*") if path.is_file()]
        return not any(text.encode() in path.read_bytes() for path in files)

    wait_for(gone, "the private key to be erased", 5)


def test_the_registry_shows_who_is_there(nomad: Device, gateway: Gateway) -> None:
    assert answers(nomad.namespace, 5)
    wait_for(lambda: gateway.device(nomad.name)["online"], "the device to be online")
    device = gateway.device(nomad.name)
    assert device["rx_bytes"] > 0
    assert device["tx_bytes"] > 0
    assert device["last_handshake"]


def get(namespace: Namespace, address: str, path: str) -> tuple[int, bytes]:
    """Status and body of a page of the gateway."""
    host = f"[{address}]" if ":" in address else address
    with namespace.connect(address, 80) as connection:
        page = HTTPConnection(host)
        page.sock = connection
        page.request("GET", path)
        response = page.getresponse()
        return response.status, response.read()


@pytest.mark.parametrize("address", ["10.90.0.1", "fd7a:115c:a1e0:9909::1"])
def test_the_status_page_knows_the_device(nomad: Device, address: str) -> None:
    status, page = get(nomad.namespace, address, "/")
    assert status == 200
    assert b"<html" in page
    status, who = get(nomad.namespace, address, "/who")
    assert status == 200
    assert json.loads(who)["name"] == nomad.name
    assert nomad.address(4) in who.decode()


def test_the_status_page_is_for_devices_only(gateway: Gateway, network: Network) -> None:
    assert gateway.process.poll() is None
    for address in ("198.18.1.1", "10.72.0.1", "127.0.0.1"):
        with pytest.raises(ConnectionRefusedError):
            network.gateway.connect(address, 80)


def test_the_log_holds_no_key(gateway: Gateway, phone: Device) -> None:
    values = phone.client.profile.values
    log = Path(gateway.log).read_text()
    for name in ("privatekey", "presharedkey"):
        assert values[name][0] not in log
