"""A whole gateway and simulated devices on loopback: real sockets, no privileges."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from ipaddress import ip_address, ip_interface
from pathlib import Path
from typing import Any

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from lopower.config import RunConfig
from lopower.devices.errors import UserError
from lopower.devices.profiles.reader import read
from lopower.devices.registry import Registry
from lopower.endpoint import Endpoint
from lopower.gateway import Gateway
from lopower.netstack.events import IcmpError, IcmpErrorKind
from lopower.station import Membership, Station, Stream
from lopower.tailnet import host

LOOPBACK = "127.0.0.1"
LOCAL = ip_address(LOOPBACK).packed
GATEWAY4 = ip_address("10.90.0.1").packed
GATEWAY6 = ip_address("fd7a:115c:a1e0:9909::1").packed

Test = Callable[["World"], Coroutine[Any, Any, None]]


class World:
    """A gateway in a folder, and whoever talks to it."""

    def __init__(self, folder: Path, gateway: Gateway) -> None:
        self.folder = folder
        self.gateway = gateway
        self.stations: list[Station] = []

    def call(self, operation: str, **arguments: Any) -> Any:
        return self.gateway.admin.call(operation, arguments)

    def enroll(self, name: str, **options: Any) -> Membership:
        return membership(self.call("enroll", name=name, **options)["profile"])

    async def device(self, name: str, **options: Any) -> Station:
        return await self.join(self.enroll(name, **options))

    async def join(self, member: Membership) -> Station:
        station = Station(asyncio.get_running_loop(), member)
        self.stations.append(station)
        await station.connect()
        return station


def membership(profile: str) -> Membership:
    config = read(profile)
    assert config.endpoint is not None
    return Membership(
        config.private_key,
        config.preshared_key,
        config.public_key,
        Endpoint(*config.endpoint),
        tuple(ip_interface(address).packed for address in config.addresses),
    )


@asynccontextmanager
async def world(folder: Path, **options: Any) -> AsyncIterator[World]:
    config = RunConfig(data=folder, **{"listen": (LOOPBACK, 0), **options})
    with Registry(folder, ipv4=config.ipv4) as registry:
        gateway = Gateway(config, registry, asyncio.get_running_loop())
        await gateway.start()
        made = World(folder, gateway)
        try:
            yield made
        finally:
            for station in made.stations:
                station.close()
            await gateway.stop()


def run(folder: Path, test: Test, **options: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(20), world(folder, **options) as made:
            await test(made)

    asyncio.run(main())


@pytest.fixture
def listener():
    with socket.create_server((LOOPBACK, 0)) as server:
        server.setblocking(False)
        yield server


@pytest.fixture
def bound():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        udp.bind((LOOPBACK, 0))
        udp.setblocking(False)
        yield udp


def here(sock: socket.socket) -> tuple[bytes, int]:
    return LOCAL, sock.getsockname()[1]


def rule(sock: socket.socket) -> str:
    return f"{LOOPBACK}:{sock.getsockname()[1]}"


async def accept(server: socket.socket) -> socket.socket:
    taken, _ = await asyncio.get_running_loop().sock_accept(server)
    taken.setblocking(False)
    return taken


async def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size:
        data = await asyncio.get_running_loop().sock_recv(sock, size - len(got))
        assert data, f"the stream ended after {len(got)} of {size} bytes"
        got += data
    return got


async def read_all(stream: Stream) -> bytes:
    got = b""
    while data := await stream.read():
        got += data
    return got


# -- TCP -------------------------------------------------------------------------------------------


def test_a_flow_carries_bytes_both_ways(tmp_path: Path, listener: socket.socket) -> None:
    async def test(made: World) -> None:
        loop = asyncio.get_running_loop()
        station = await made.device("kitchen")
        stream = await station.open(here(listener))
        taken = await accept(listener)
        payload = os.urandom(3_000_000)
        sending = asyncio.create_task(stream.write(payload))
        assert await receive(taken, len(payload)) == payload
        await sending
        sending = asyncio.create_task(loop.sock_sendall(taken, payload))
        got = b""
        while len(got) < len(payload):
            got += await stream.read()
        assert got == payload
        await sending
        [flow] = made.gateway.live.flows()
        assert (flow["sent"], flow["received"]) == (len(payload), len(payload))
        assert (flow["device"], flow["address"]) == ("kitchen", LOOPBACK)
        taken.close()
        assert await stream.read() == b""

    run(tmp_path, test, allow=[rule(listener)])


def test_each_direction_ends_on_its_own(tmp_path: Path, listener: socket.socket) -> None:
    async def test(made: World) -> None:
        loop = asyncio.get_running_loop()
        station = await made.device("kitchen")
        stream = await station.open(here(listener))
        taken = await accept(listener)
        await stream.write(b"question")
        stream.close()
        assert await receive(taken, 8) == b"question"
        assert await loop.sock_recv(taken, 1) == b""
        await loop.sock_sendall(taken, b"answer" * 1000)
        taken.close()
        assert await read_all(stream) == b"answer" * 1000
        other = await station.open(here(listener))
        taken = await accept(listener)
        taken.shutdown(socket.SHUT_WR)
        assert await other.read() == b""
        await other.write(b"still here")
        other.close()
        assert await receive(taken, 10) == b"still here"
        assert await loop.sock_recv(taken, 1) == b""
        taken.close()
        await drained(made)

    run(tmp_path, test, allow=[rule(listener)])


async def drained(made: World) -> None:
    """Every relay and every watched socket is gone."""
    while made.gateway.live.flows() or any(c.dials for c in made.gateway.proxy.clients()):
        await asyncio.sleep(0.01)
    assert len(made.gateway.poller) == 0


def test_a_closed_port_is_refused(tmp_path: Path, listener: socket.socket) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        target = here(listener)
        listener.close()
        with pytest.raises(ConnectionError):
            await station.open(target)
        await drained(made)

    run(tmp_path, test, allow=[rule(listener)])


def test_what_is_not_allowed_is_refused_and_remembered(
    tmp_path: Path, listener: socket.socket
) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        with pytest.raises(ConnectionError):
            await station.open(here(listener))
        with pytest.raises(BlockingIOError):
            listener.accept()
        [refusal] = made.gateway.live.refusals(made.call("show", name="kitchen")["id"])
        assert refusal["address"] == LOOPBACK
        assert "loopback" in refusal["reason"]
        assert made.call("show", name="kitchen")["refused"] == 1

    run(tmp_path, test, allow=["0.0.0.0/0"])


def test_a_reset_reaches_the_device(tmp_path: Path, listener: socket.socket) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        stream = await station.open(here(listener))
        taken = await accept(listener)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        taken.close()
        with pytest.raises(ConnectionError):
            await stream.read()
        await drained(made)

    run(tmp_path, test, allow=[rule(listener)])


def test_a_devices_reset_reaches_the_other_side(tmp_path: Path, listener: socket.socket) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        stream = await station.open(here(listener))
        taken = await accept(listener)
        stream.connection.abort(station.engine.now)
        station.engine.wake()
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(taken, 1)
        taken.close()
        await drained(made)

    run(tmp_path, test, allow=[rule(listener)])


def test_a_slow_reader_stops_the_sender(tmp_path: Path, listener: socket.socket) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        stream = await station.open(here(listener))
        taken = await accept(listener)
        sending = asyncio.create_task(stream.write(bytes(64 << 20)))
        before, [flow] = -1, made.gateway.live.flows()
        while flow["sent"] != before:
            before = flow["sent"]
            await asyncio.sleep(0.5)
            [flow] = made.gateway.live.flows()
        assert before < 48 << 20
        assert not sending.done()
        assert await receive(taken, 8 << 20) == bytes(8 << 20)
        sending.cancel()
        taken.close()

    run(tmp_path, test, allow=[rule(listener)])


def test_what_a_device_sent_before_it_left_arrives(tmp_path: Path, listener: socket.socket) -> None:
    """The target reads slowly; the device has long closed both directions."""

    async def test(made: World) -> None:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        station = await made.device("kitchen")
        stream = await station.open(here(listener))
        taken = await accept(listener)
        payload = os.urandom(4_000_000)
        await stream.write(payload)
        stream.close()
        taken.shutdown(socket.SHUT_WR)
        assert await stream.read() == b""
        while not stream.connection.closed:
            if (part := await receive(taken, 1000)) != payload[:1000]:
                raise AssertionError(part)
            payload = payload[1000:]
            await asyncio.sleep(0)
        assert await receive(taken, len(payload)) == payload
        assert await asyncio.get_running_loop().sock_recv(taken, 1) == b""
        taken.close()
        await drained(made)

    run(tmp_path, test, allow=[rule(listener)])


# -- UDP and ping ----------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 64, 1252, 1253, 8000, 60_000])
def test_udp_there_and_back(tmp_path: Path, bound: socket.socket, size: int) -> None:
    async def test(made: World) -> None:
        loop = asyncio.get_running_loop()
        station = await made.device("kitchen")
        payload = os.urandom(size)
        asking = asyncio.create_task(station.exchange(here(bound), payload))
        data, source = await loop.sock_recvfrom(bound, 65536)
        assert data == payload
        await loop.sock_sendto(bound, payload[::-1], source)
        assert await asking == payload[::-1]

    run(tmp_path, test, allow=[rule(bound)])


def test_one_port_of_a_device_is_one_port_outside(tmp_path: Path, bound: socket.socket) -> None:
    async def test(made: World) -> None:
        loop = asyncio.get_running_loop()
        station = await made.device("kitchen")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
            other.bind((LOOPBACK, 0))
            other.setblocking(False)
            source = station.source(LOCAL)
            for target in (bound, other):
                station.stack.send_udp(
                    station.peer, source, here(target), b"x", loop.time(), fragment=False
                )
            station.engine.wake()
            _, first = await loop.sock_recvfrom(bound, 10)
            _, second = await loop.sock_recvfrom(other, 10)
            assert first == second

    run(tmp_path, test, allow=[LOOPBACK])


def test_a_closed_udp_port_is_told(tmp_path: Path, bound: socket.socket) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        errors = watch_errors(station)
        target = here(bound)
        bound.close()
        source = station.source(LOCAL)
        now = asyncio.get_running_loop().time()
        station.stack.send_udp(station.peer, source, target, b"anyone?", now, fragment=False)
        station.engine.wake()
        error = await errors.get()
        assert error.kind is IcmpErrorKind.PORT_UNREACHABLE
        assert error.device == target  # to the station, the gateway's side is the device

    run(tmp_path, test, allow=[rule(bound)])


def watch_errors(station: Station) -> asyncio.Queue[IcmpError]:
    errors: asyncio.Queue[IcmpError] = asyncio.Queue()
    events = station.stack.events

    def seen() -> list[Any]:
        found = events()
        for event in found:
            if isinstance(event, IcmpError):
                errors.put_nowait(event)
        return found

    station.stack.events = seen  # type: ignore[method-assign]
    return errors


def test_refused_udp_is_prohibited(tmp_path: Path, bound: socket.socket) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        errors = watch_errors(station)
        now = asyncio.get_running_loop().time()
        station.stack.send_udp(
            station.peer, station.source(LOCAL), here(bound), b"x", now, fragment=False
        )
        station.engine.wake()
        assert (await errors.get()).kind is IcmpErrorKind.PROHIBITED

    run(tmp_path, test)


def test_the_gateway_answers_pings(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        await station.ping(GATEWAY4)
        await station.ping(GATEWAY6)

    run(tmp_path, test)


# -- DNS and the page ------------------------------------------------------------------------------


async def ask(station: Station, name: str, kind: str = "A") -> dns.message.Message:
    query = dns.message.make_query(name, kind)
    return dns.message.from_wire(await station.exchange((GATEWAY4, 53), query.to_wire()))


def test_devices_have_names(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        answer = await ask(station, "kitchen.lopower.internal")
        assert str(answer.answer[0][0]) == made.call("show", name="kitchen")["addresses"][0]
        made.call("rename", name="kitchen", new_name="stove")
        assert (await ask(station, "kitchen.lopower.internal")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask(station, "stove.lopower.internal")).answer

    run(tmp_path, test)


def test_dns_over_tcp_answers_question_after_question(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        stream = await station.open((GATEWAY6, 53))
        for name in ("gateway.lopower.internal", "kitchen.lopower.internal"):
            query = dns.message.make_query(name, "AAAA").to_wire()
            await stream.write(len(query).to_bytes(2))
            await stream.write(query)
        stream.close()
        got = await read_all(stream)
        answers = []
        while got:
            size = int.from_bytes(got[:2])
            answers.append(dns.message.from_wire(got[2 : 2 + size]))
            got = got[2 + size :]
        assert [len(answer.answer) for answer in answers] == [1, 1]

    run(tmp_path, test)


def test_other_names_go_upstream(tmp_path: Path, bound: socket.socket) -> None:
    async def upstream() -> None:
        loop = asyncio.get_running_loop()
        while True:
            wire, source = await loop.sock_recvfrom(bound, 4096)
            query = dns.message.from_wire(wire)
            answer = dns.message.make_response(query)
            answer.flags |= dns.flags.RA
            name = query.question[0].name
            answer.answer = [dns.rrset.from_text(name, 60, "IN", "A", "198.51.100.7")]
            await loop.sock_sendto(bound, answer.to_wire(), source)

    async def test(made: World) -> None:
        serving = asyncio.create_task(upstream())
        station = await made.device("kitchen")
        for _ in range(2):
            answer = await ask(station, "www.example.org")
            assert str(answer.answer[0][0]) == "198.51.100.7"
        serving.cancel()

    run(tmp_path, test, upstreams=[f"udp://{LOOPBACK}:{bound.getsockname()[1]}"])


def test_a_rule_may_be_a_name(tmp_path: Path, bound: socket.socket) -> None:
    """The name resolves to loopback, which a name must not open: rebinding is refused."""

    async def upstream() -> None:
        loop = asyncio.get_running_loop()
        while True:
            wire, source = await loop.sock_recvfrom(bound, 4096)
            query = dns.message.from_wire(wire)
            answer = dns.message.make_response(query)
            name = query.question[0].name
            if query.question[0].rdtype == dns.rdatatype.A:
                text = LOOPBACK if name.labels[0] == b"rebind" else "198.51.100.7"
                answer.answer = [dns.rrset.from_text(name, 60, "IN", "A", text)]
            await loop.sock_sendto(bound, answer.to_wire(), source)

    async def test(made: World) -> None:
        serving = asyncio.create_task(upstream())
        station = await made.device("kitchen")
        client = made.gateway.proxy.client(made.gateway.interface.peers[0])
        assert client is not None
        good = ip_address("198.51.100.7").packed
        while not client.policy.check(good, 443, "tcp").allowed:
            await asyncio.sleep(0.01)
        assert not client.policy.check(good, 80, "tcp").allowed
        assert "198.51.100.7/32" in made.call("enroll", name="garden")["profile"]
        while len(client.policy.pins["rebind.example.org"]) == 0:
            await asyncio.sleep(0.01)
        with pytest.raises(ConnectionError):
            await station.open(here(bound))
        serving.cancel()

    rules = ["www.example.org:443/tcp", "rebind.example.org"]
    run(tmp_path, test, allow=rules, upstreams=[f"udp://{LOOPBACK}:{bound.getsockname()[1]}"])


async def get(station: Station, address: bytes, path: str, host: str) -> tuple[int, bytes]:
    stream = await station.open((address, 80))
    await stream.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    head, _, body = (await read_all(stream)).partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_the_page_knows_who_asks(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        for address, name in ((GATEWAY4, "10.90.0.1"), (GATEWAY6, "[fd7a:115c:a1e0:9909::1]")):
            status, body = await get(station, address, "/who", name)
            assert status == 200
            assert json.loads(body)["name"] == "kitchen"
        for path in ("/", "/page.js", "/page.css", "/ping"):
            assert (await get(station, GATEWAY4, path, "10.90.0.1"))[0] == 200
        assert (await get(station, GATEWAY4, "/../secret", "10.90.0.1"))[0] == 404
        assert (await get(station, GATEWAY4, "/who", "evil.example"))[0] == 421

    run(tmp_path, test)


# -- life ------------------------------------------------------------------------------------------


def test_two_devices_cannot_reach_each_other(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        kitchen, garden = await made.device("kitchen"), await made.device("garden")
        target = garden.source(GATEWAY4)[0]
        with pytest.raises(ConnectionError):
            await kitchen.open((target, 80))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await kitchen.ping(target)

    run(tmp_path, test, allow=["0.0.0.0/0", "::/0"])


def test_a_revoked_device_is_gone_at_once(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        await station.ping(GATEWAY4)
        made.call("revoke", name="kitchen")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await station.ping(GATEWAY4)

    run(tmp_path, test)


def test_a_disabled_device_comes_back_when_enabled(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        member = made.enroll("kitchen")
        station = await made.join(member)
        made.call("disable", name="kitchen")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await station.ping(GATEWAY4)
        made.call("enable", name="kitchen")
        while not made.call("show", name="kitchen")["online"]:
            await asyncio.sleep(0.01)  # the gateway calls the device
        await station.ping(GATEWAY4)

    run(tmp_path, test)


def test_rotated_keys_take_over_at_their_first_handshake(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        old = await made.device("kitchen")
        rotated = membership(made.call("rotate", name="kitchen")["profile"])
        await old.ping(GATEWAY4)
        new = await made.join(rotated)
        while made.gateway.registry.pending():
            await asyncio.sleep(0.01)
        await new.ping(GATEWAY4)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await old.ping(GATEWAY4)

    run(tmp_path, test)


def test_a_private_key_is_erased_at_the_first_handshake(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        member = made.enroll("kitchen")
        [pending] = made.gateway.registry.pending()
        assert pending.private_key == member.private_key
        await (await made.join(member)).ping(GATEWAY4)
        assert not made.gateway.registry.pending()
        for file in made.folder.iterdir():
            assert not file.is_file() or member.private_key not in file.read_bytes()

    run(tmp_path, test)


def test_a_restarted_gateway_calls_its_devices(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            async with world(tmp_path) as made:
                member = made.enroll("kitchen")
                port = made.gateway.outer.port
                station = Station(asyncio.get_running_loop(), member)
                await station.connect()
                await station.ping(GATEWAY4)
            async with world(tmp_path, listen=(LOOPBACK, port)) as made:
                # The station sends nothing: the gateway must speak first.
                while not made.call("show", name="kitchen")["online"]:
                    await asyncio.sleep(0.01)
                async with asyncio.timeout(2):
                    await station.ping(GATEWAY4)
            station.close()

    asyncio.run(main())


def test_counters_survive_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        async with asyncio.timeout(20):
            async with world(tmp_path) as made:
                await (await made.device("kitchen")).ping(GATEWAY4)
                before = made.call("show", name="kitchen")
            async with world(tmp_path) as made:
                after = made.call("show", name="kitchen")
        for key in ("id", "addresses", "public_key", "last_handshake", "endpoint"):
            assert after[key] == before[key]
        assert after["rx_bytes"] >= before["rx_bytes"] > 0

    asyncio.run(main())


def test_ipv4_can_be_off(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        station = await made.device("kitchen")
        await station.ping(GATEWAY6)
        assert all(":" in address for address in made.call("show", name="kitchen")["addresses"])
        assert made.gateway.addresses == (GATEWAY6,)

    run(tmp_path, test, ipv4=False)


def test_a_capture_holds_the_inner_packets(tmp_path: Path) -> None:
    capture = tmp_path / "inner.pcap"

    async def test(made: World) -> None:
        await (await made.device("kitchen")).ping(GATEWAY4)

    run(tmp_path / "data", test, pcap=capture)
    packets, wire = [], capture.read_bytes()[24:]
    while wire:
        size = int.from_bytes(wire[8:12], "little")
        packets.append(wire[16 : 16 + size])
        wire = wire[16 + size :]
    assert [packet[9] for packet in packets if packet[0] == 0x45] == [1, 1]


def test_strangers_are_counted(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        member = made.enroll("kitchen")
        made.call("revoke", name="kitchen")
        station = Station(asyncio.get_running_loop(), member)
        made.stations.append(station)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await station.connect()
        [knock] = made.call("knocks")
        assert knock["reason"] == "unknown-key"

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"upstreams": ["foo://x"]}, "--upstream: foo:// is not one of udp, tcp, tls and https."),
        ({"upstreams": ["10.90.0.1"]}, "--upstream: 10.90.0.1 is the gateway itself"),
        ({"pcap": Path("/nonexistent/x.pcap")}, "--pcap: /nonexistent/x.pcap cannot be written"),
    ],
)
def test_mistakes_in_options_are_one_sentence(
    tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    async def test(made: World) -> None:
        raise AssertionError("it started")

    with pytest.raises(UserError) as caught:
        run(tmp_path, test, **options)
    assert str(caught.value).startswith(sentence)


def test_a_taken_port_is_one_sentence(tmp_path: Path) -> None:
    async def test(made: World) -> None:
        with pytest.raises(UserError, match="cannot be opened"):
            async with world(tmp_path / "other", listen=(LOOPBACK, made.gateway.outer.port)):
                pass

    run(tmp_path, test)


def test_new_addresses_of_the_host_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(made: World) -> None:
        made.enroll("kitchen", rules=["198.51.100.0/24"])
        [client] = made.gateway.proxy.clients()
        ours = ip_address("198.51.100.9").packed
        assert client.policy.check(ours, 80, "tcp").allowed
        monkeypatch.setattr(host, "look", lambda: host.Host((ours,), ()))
        made.gateway._look_around()
        assert not client.policy.check(ours, 80, "tcp").allowed
        assert client.policy.check(ip_address("198.51.100.8").packed, 80, "tcp").allowed

    run(tmp_path, test)


def test_counters_are_written_only_when_they_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(made: World) -> None:
        await (await made.device("kitchen")).ping(GATEWAY4)
        made.enroll("silent")
        made.gateway.roster.save(counters=True)
        saved: list[Any] = []
        monkeypatch.setattr(made.gateway.registry, "save_runtime", saved.extend)
        made.gateway.roster.save(counters=True)
        assert saved == []
        await made.stations[0].ping(GATEWAY4)
        made.gateway.roster.save(counters=True)
        assert len(saved) == 1

    run(tmp_path, test)
