"""What must not work: spoofing, reaching others, leaving the policy, being answered unasked."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from tests.e2e.conftest import ALLOW, ECHO, Device, MakeDevice
from tests.lab.client import Client, wait_for
from tests.lab.gateway import Gateway
from tests.lab.namespace import Namespace
from tests.lab.network import GATEWAY, TARGET, TARGET6, Network
from tests.lab.servers import TcpServer, UdpServer, echo

ETH_P_ALL = 0x0003


def send_from(device: Device, source: str, destination: tuple[str, int], payload: bytes) -> None:
    """Sends one datagram with an inner source address the device was not given."""
    width = "/128" if ":" in source else "/32"
    device.namespace.address(device.client.device, f"{source}{width}")
    with device.namespace.open_socket("udp", source) as sender:
        sender.bind((source, 0))
        sender.sendto(payload, destination)
    device.namespace.ip("address", "delete", f"{source}{width}", "dev", device.client.device)


@pytest.mark.parametrize("version", [4, 6])
def test_a_device_cannot_speak_for_another(
    phone: Device, laptop: Device, target: Namespace, version: int
) -> None:
    received: list[bytes] = []
    address = TARGET if version == 4 else TARGET6
    server = UdpServer(target, address, 7200, lambda data: received.append(data))
    send_from(phone, laptop.address(version), (address, 7200), b"spoofed")

    def heard() -> bool:
        honest.send(b"honest")  # again, as whoever uses UDP does: on a busy machine one may be lost
        return bool(received)

    with phone.namespace.udp(address, 7200) as honest:
        wait_for(heard, "an honest datagram", 10, pause=0.2)
    server.close()
    assert set(received) == {b"honest"}


@pytest.mark.parametrize("version", [4, 6])
def test_devices_do_not_reach_each_other(phone: Device, laptop: Device, version: int) -> None:
    address = laptop.address(version)
    tcp = TcpServer(laptop.namespace, address, 7201, echo)
    udp = UdpServer(laptop.namespace, address, 7201)
    with pytest.raises(OSError):  # noqa: PT011
        phone.namespace.connect(address, 7201, timeout=2)
    with phone.namespace.udp(address, 7201, timeout=1) as sender, suppress(OSError):
        sender.send(b"hello?")
        assert not sender.recv(100)
    ping = phone.namespace.run("ping", "-c", "1", "-W", "1", address, check=False).stdout
    for server in (tcp, udp):
        server.close()
    assert (tcp.connections, udp.sources) == (0, [])
    assert "1 received" not in ping


@pytest.fixture(scope="module")
def strict(make_gateway: Callable[..., Gateway], make_device: MakeDevice) -> Device:
    """A device at a gateway that was told to allow nothing."""
    return make_device(make_gateway(), "strict")


HOST_ADDRESSES = {
    "loopback": "127.0.0.1",
    "link-local": "169.254.7.7",
    "the host's own address": "10.72.0.1",
    "the host's outer address": GATEWAY,
    "a neighbour on the LAN": TARGET,
    "a neighbour on the LAN, IPv6": TARGET6,
}


@pytest.mark.parametrize("address", HOST_ADDRESSES.values(), ids=HOST_ADDRESSES)
def test_by_default_the_hosts_network_is_out_of_reach(
    strict: Device, network: Network, target: Namespace, address: str
) -> None:
    """The device sends there all the same: its routes are its own business."""
    host = network.target if address in (TARGET, TARGET6) else network.gateway
    if address == "169.254.7.7":
        host.ip("address", "replace", f"{address}/16", "dev", "inner")
    lead_into_tunnel(strict, address)
    tcp, udp = TcpServer(host, address, 7202, echo), UdpServer(host, address, 7202)
    before = strict.client.sent()
    with pytest.raises(OSError):  # noqa: PT011
        strict.namespace.connect(address, 7202, timeout=2)
    with suppress(OSError), strict.namespace.udp(address, 7202, timeout=0.5) as sender:
        sender.send(b"hello?")
        sender.recv(1)
    after = strict.client.sent()
    for server in (tcp, udp):
        server.close()
    assert after > before, "the test itself failed: nothing was sent"
    assert (tcp.connections, udp.sources) == (0, [])


def lead_into_tunnel(device: Device, address: str) -> None:
    """Routes `address` into the tunnel, even where the client's kernel thinks it knows better."""
    namespace, client = device.namespace, device.client
    if address == "127.0.0.1":
        namespace.sysctl("net/ipv4/conf/all/route_localnet", "1")
        namespace.ip("address", "delete", "127.0.0.1/8", "dev", "lo")
    peer = client.wg("show", client.device, "peers").strip()
    source = device.address(6 if ":" in address else 4)
    route = ("route", "replace", address, "dev", client.device, "src", source)
    if address != GATEWAY:
        namespace.ip(*route)
    else:  # The tunnel itself goes there: only this port is led into it.
        namespace.ip(*route, "table", "77")
        for protocol in ("tcp", "udp"):
            rule = ("to", address, "ipproto", protocol, "dport", "7202", "lookup", "77")
            namespace.ip("rule", "add", *rule)
    client.set("peer", peer, "allowed-ips", "0.0.0.0/0,::/0")


class Sniffer:
    """Counts the IP packets that reach a namespace's outer interface."""

    def __init__(self, namespace: Namespace) -> None:
        with namespace.inside():
            self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.bind(("eth0", ETH_P_ALL))

    def received(self, seconds: float) -> list[bytes]:
        """UDP packets that came in; neighbour discovery does not count."""
        found, deadline = [], time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            self.socket.settimeout(left)
            with suppress(TimeoutError):
                packet, address = self.socket.recvfrom(65535)
                is_udp = packet[9:10] == b"\x11" if packet[0] >> 4 == 4 else packet[6] == 17
                if address[2] != socket.PACKET_OUTGOING and is_udp:
                    found.append(packet)
        return found


@pytest.fixture
def stranger(network: Network) -> Namespace:
    """A namespace that no device lives in."""
    return network.client()


def test_garbage_gets_silence(gateway: Gateway, stranger: Namespace) -> None:
    sniffer = Sniffer(stranger)
    with stranger.open_socket("udp") as sender:
        for kind in (0, 1, 2, 3, 4, 255):
            for size in (0, 1, 4, 32, 64, 92, 148, 149, 1280, 9000):
                datagram = (bytes([kind, 0, 0, 0]) + os.urandom(size))[:size]
                sender.sendto(datagram, (GATEWAY, gateway.port))
    assert sniffer.received(1) == []
    assert gateway.process.poll() is None


def test_an_unknown_key_gets_silence(gateway: Gateway, phone: Device, stranger: Namespace) -> None:
    """A well-formed handshake with a key nobody enrolled."""
    foreign = stranger.run("wg", "genkey").stdout.strip()
    assert handshake_packets(stranger, replaced(phone, "PrivateKey", foreign)) == []


def test_a_wrong_server_key_gets_silence(phone: Device, stranger: Namespace) -> None:
    key = stranger.run("wg", "genkey").stdout
    public = stranger.run("wg", "pubkey", input=key).stdout.strip()
    assert handshake_packets(stranger, replaced(phone, "PublicKey", public)) == []


def test_a_wrong_preshared_key_gets_no_session(phone: Device, stranger: Namespace) -> None:
    """Identified, but not authenticated: it may be answered, but never connected."""
    profile = replaced(phone, "PresharedKey", stranger.run("wg", "genpsk").stdout.strip())
    with Client(stranger, profile) as client, suppress(OSError):
        with pytest.raises(OSError):  # noqa: PT011
            stranger.connect(TARGET, ECHO, timeout=2)
        assert client.last_handshake() == 0


def replaced(device: Device, key: str, value: str) -> str:
    """The device's profile with another value for `key`."""
    lines = device.client.profile.text.splitlines()
    changed = [f"{key} = {value}" if line.startswith(key) else line for line in lines]
    assert changed != lines
    return "\n".join(changed)


def handshake_packets(namespace: Namespace, profile: str) -> list[bytes]:
    """What a client with this profile gets back when it tries to connect."""
    with Client(namespace, profile):
        sniffer = Sniffer(namespace)
        with suppress(OSError):
            namespace.connect(TARGET, ECHO, timeout=1)
        return sniffer.received(1)


def test_the_answer_comes_from_the_address_that_was_asked(
    network: Network, make_gateway: Callable[..., Gateway]
) -> None:
    """On a host with several addresses; else no NAT would let the answer through."""
    network.gateway.ip("address", "replace", "198.18.1.200/32", "dev", "lo")
    gateway = make_gateway(*ALLOW)
    namespace = network.client()
    profile = gateway.enroll("far")["profile"].replace(f"= {GATEWAY}:", "= 198.18.1.200:")
    sniffer = Sniffer(namespace)
    with Client(namespace, profile):
        namespace.connect(TARGET, ECHO).close()
        sources = {socket.inet_ntoa(packet[12:16]) for packet in sniffer.received(0.5)}
    assert sources == {"198.18.1.200"}
