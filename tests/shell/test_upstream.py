"""Upstream queries against servers on loopback: every transport, failover, limits."""

from __future__ import annotations

import asyncio
import datetime
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import dns.message
import dns.rcode
import dns.rrset
import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lopower.dns.server import UpstreamQuery
from lopower.shell import upstream as module
from lopower.shell.upstream import Carrier, Upstream, UpstreamError, host_upstreams

LOOPBACK = "127.0.0.1"
Handler = Callable[[dns.message.Message, bool], "dns.message.Message | bytes | None"]
Delivered = list[tuple[int, bytes | None]]


def run(coroutine: Awaitable[None]) -> None:
    async def within() -> None:
        async with asyncio.timeout(10):
            await coroutine

    asyncio.run(within())


def answer(query: dns.message.Message, stream: bool = False) -> dns.message.Message:
    response = dns.message.make_response(query)
    name = query.question[0].name
    kind = "A" if query.question[0].rdtype == 1 else "AAAA"
    address = "192.0.2.7" if kind == "A" else "2001:db8::7"
    response.answer = [dns.rrset.from_text(name, 300, "IN", kind, address)]
    return response


def query(identifier: int = 1, name: str = "example.com", to: str = "") -> UpstreamQuery:
    wire = dns.message.make_query(name, "A", use_edns=0, payload=1232, id=0).to_wire()
    return UpstreamQuery(identifier, wire, name, 1, to)


class Authority(asyncio.DatagramProtocol):
    """A DNS server on one loopback port, UDP and TCP."""

    def __init__(self, handler: Handler = answer) -> None:
        self.handler = handler
        self.seen: list[tuple[dns.message.Message, object]] = []
        self.connections = 0

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def reply(self, wire: bytes, source: object, stream: bool) -> bytes | None:
        message = dns.message.from_wire(wire)
        self.seen.append((message, source))
        response = self.handler(message, stream)
        return response.to_wire() if isinstance(response, dns.message.Message) else response

    def datagram_received(self, data: bytes, addr: object) -> None:
        response = self.reply(data, addr, False)
        if response is not None:
            self.transport.sendto(response, addr)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        source = writer.get_extra_info("peername")
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(2), "big")
                response = self.reply(await reader.readexactly(size), source, True)
                if response is None:
                    break
                writer.write(len(response).to_bytes(2, "big") + response)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        writer.close()


@asynccontextmanager
async def serving(
    handler: Handler = answer, context: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[Authority, int]]:
    authority = Authority(handler)
    server = await asyncio.start_server(authority.serve, LOOPBACK, 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: authority, (LOOPBACK, port))
    try:
        yield authority, port
    finally:
        transport.close()
        server.close()


@asynccontextmanager
async def carrying(
    *texts: str, **settings: object
) -> AsyncIterator[tuple[Carrier, Callable[[], Awaitable[tuple[int, bytes | None]]]]]:
    delivered: asyncio.Queue[tuple[int, bytes | None]] = asyncio.Queue()
    carrier = Carrier(
        [Upstream.parse(text) for text in texts] or None,
        lambda identifier, wire: delivered.put_nowait((identifier, wire)),
        **settings,  # type: ignore[arg-type]
    )
    try:
        yield carrier, delivered.get
    finally:
        await carrier.close()


@asynccontextmanager
async def asking(
    handler: Handler = answer, scheme: str = "udp"
) -> AsyncIterator[tuple[Authority, Carrier, Callable[[], Awaitable[tuple[int, bytes | None]]]]]:
    """A server, and a carrier that knows no other."""
    async with (
        serving(handler) as (authority, port),
        carrying(f"{scheme}://{LOOPBACK}:{port}") as (carrier, got),
    ):
        yield authority, carrier, got


def parsed(wire: bytes | None) -> dns.message.Message:
    assert wire is not None
    return dns.message.from_wire(wire)


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a certificate for dns.test, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dns.test")])
    names = [x509.DNSName("dns.test"), x509.DNSName("localhost")]
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    path.write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(path)
    return server, ssl.create_default_context(cafile=path)


# --- transports -----------------------------------------------------------------------------


def test_udp_with_random_ports_and_ids() -> None:
    async def test() -> None:
        async with serving() as (authority, port), carrying(f"{LOOPBACK}:{port}") as (carrier, got):
            for identifier in range(8):
                carrier.send(query(identifier))
            results = [await got() for _ in range(8)]
            assert sorted(identifier for identifier, _ in results) == list(range(8))
            assert all(parsed(wire).answer for _, wire in results)
            assert len({message.id for message, _ in authority.seen}) > 4
            assert len({source for _, source in authority.seen}) > 4

    run(test())


def test_the_gateways_own_event_loop() -> None:
    uvloop = pytest.importorskip("uvloop")

    async def test() -> None:
        for scheme in ("udp", "tcp"):
            async with asking(scheme=scheme) as (_, carrier, got):
                carrier.send(query())
                assert parsed((await got())[1]).answer

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(test())


def test_truncated_udp_is_asked_again_over_tcp() -> None:
    def truncating(message: dns.message.Message, stream: bool) -> dns.message.Message:
        response = answer(message)
        if not stream:
            response.flags |= dns.flags.TC
            response.answer = []
        return response

    async def test() -> None:
        async with asking(truncating, "udp") as (authority, carrier, got):
            carrier.send(query())
            assert parsed((await got())[1]).answer
            assert authority.connections == 1

    run(test())


def test_spoofed_and_broken_datagrams_are_ignored() -> None:
    async def test() -> None:
        def noisy(message: dns.message.Message, stream: bool) -> dns.message.Message:
            wrong = answer(message)
            wrong.id ^= 1
            other = answer(dns.message.make_query("evil.example", "A", id=message.id))
            transport, source = authority.transport, authority.seen[-1][1]
            for junk in (b"junk", wrong.to_wire(), other.to_wire(), b""):
                transport.sendto(junk, source)
            return answer(message)

        async with asking(noisy) as (authority, carrier, got):
            carrier.send(query())
            assert parsed((await got())[1]).question[0].name.to_text() == "example.com."

    run(test())


@pytest.mark.parametrize("scheme", ["tcp", "tls"])
def test_streams_are_kept_for_the_next_query(
    scheme: str, tls: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def test() -> None:
        secure = scheme == "tls"
        async with serving(context=tls[0] if secure else None) as (authority, port):
            text = f"{scheme}://{LOOPBACK}:{port}" + ("#dns.test" if secure else "")
            async with carrying(text, ssl_context=tls[1]) as (carrier, got):
                for _ in range(3):
                    carrier.send(query())
                    assert parsed((await got())[1]).answer
                assert authority.connections == 1
                for identifier in range(4):
                    carrier.send(query(identifier))
                for _ in range(4):
                    assert parsed((await got())[1]).answer

    run(test())


def test_a_stream_the_server_closed_is_opened_again() -> None:
    def once(message: dns.message.Message, stream: bool) -> dns.message.Message | None:
        return answer(message) if message.question[0].name.to_text() != "close.example." else None

    async def test() -> None:
        async with asking(once, "tcp") as (_authority, carrier, got):
            carrier.send(query())
            await got()
            carrier.send(query(name="close.example"))
            assert (await got())[1] is None
            carrier.send(query())
            assert parsed((await got())[1]).answer

    run(test())


def test_an_idle_stream_is_not_used_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE", 0.0)

    async def test() -> None:
        async with asking(scheme="tcp") as (authority, carrier, got):
            for _ in range(2):
                carrier.send(query())
                await got()
            assert authority.connections == 2

    run(test())


def test_a_wrong_certificate_is_no_answer(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def test() -> None:
        async with serving(context=tls[0]) as (_, port):
            for text, context in (
                (f"tls://{LOOPBACK}:{port}#other.test", tls[1]),
                (f"tls://{LOOPBACK}:{port}#dns.test", None),
            ):
                async with carrying(text, ssl_context=context) as (carrier, got):
                    carrier.send(query())
                    assert (await got())[1] is None

    run(test())


def test_an_upstream_given_by_name_is_looked_up_once() -> None:
    async def test() -> None:
        async with serving() as (_, port), carrying(f"tcp://localhost:{port}") as (carrier, got):
            for _ in range(2):
                carrier.send(query())
                wire = (await got())[1]
                assert wire is None or parsed(wire).answer  # localhost may be ::1 only
            assert list(carrier._names) == ["localhost"]

    run(test())


def test_https(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async def test() -> None:
        seen = []

        async def handle(request: web.Request) -> web.Response:
            seen.append(request.headers["content-type"])
            response = answer(dns.message.from_wire(await request.read()))
            return web.Response(body=response.to_wire(), content_type="application/dns-message")

        application = web.Application()
        application.router.add_post("/dns-query", handle)
        runner = web.AppRunner(application)
        await runner.setup()
        site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=tls[0])
        await site.start()
        port = runner.addresses[0][1]
        url = f"https://localhost:{port}/dns-query"
        async with carrying(url, ssl_context=tls[1]) as (carrier, got):
            for _ in range(2):
                carrier.send(query())
                assert parsed((await got())[1]).answer
        async with carrying(url.replace("query", "none"), ssl_context=tls[1]) as (carrier, got):
            carrier.send(query())
            assert (await got())[1] is None
        await runner.cleanup()
        assert seen == ["application/dns-message"] * 2

    run(test())


# --- failover -------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ATTEMPTS", (0.05, 0.05, 0.5))
    monkeypatch.setattr(module, "BUDGET", 0.6)


@pytest.mark.usefixtures("hasty")
def test_a_silent_upstream_is_left_for_the_next() -> None:
    async def test() -> None:
        async with serving(lambda *_: None) as (silent, one), serving() as (_, two):
            texts = (f"{LOOPBACK}:{one}", f"{LOOPBACK}:{two}")
            async with carrying(*texts) as (carrier, got):
                for _ in range(4):
                    carrier.send(query())
                    assert parsed((await got())[1]).answer
                assert len(silent.seen) == 3  # then it rests
                assert carrier.upstreams[-1].port == one

    run(test())


@pytest.mark.usefixtures("hasty")
def test_a_lost_datagram_is_sent_again() -> None:
    async def test() -> None:
        seen: list[int] = []

        def lossy(message: dns.message.Message, stream: bool) -> dns.message.Message | None:
            seen.append(1)
            return answer(message) if len(seen) == 3 else None

        async with serving(lossy) as (_, port), carrying(f"{LOOPBACK}:{port}") as (carrier, got):
            carrier.send(query())
            assert parsed((await got())[1]).answer

    run(test())


def test_a_refusing_port_fails_at_once() -> None:
    async def test() -> None:
        async with serving() as (_, port):
            pass
        async with carrying(f"{LOOPBACK}:{port}") as (carrier, got):
            began = asyncio.get_running_loop().time()
            carrier.send(query())
            assert (await got())[1] is None
            assert asyncio.get_running_loop().time() - began < 1

    run(test())


def test_servfail_moves_on_and_is_delivered_when_nobody_knows_better() -> None:
    def failing(message: dns.message.Message, stream: bool) -> dns.message.Message:
        response = dns.message.make_response(message)
        response.set_rcode(dns.rcode.SERVFAIL)
        return response

    async def test() -> None:
        async with serving(failing) as (bad, one), serving() as (_, two):
            async with carrying(f"{LOOPBACK}:{one}", f"{LOOPBACK}:{two}") as (carrier, got):
                carrier.send(query())
                assert parsed((await got())[1]).answer
            async with carrying(f"{LOOPBACK}:{one}") as (carrier, got):
                carrier.send(query())
                assert parsed((await got())[1]).rcode() == dns.rcode.SERVFAIL
            assert len(bad.seen) == 2

    run(test())


@pytest.mark.usefixtures("hasty")
def test_concurrency_is_bounded_and_the_budget_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONCURRENCY", 2)

    async def test() -> None:
        async with asking(lambda *_: None) as (authority, carrier, got):
            for identifier in range(6):
                carrier.send(query(identifier))
            await asyncio.sleep(0.03)
            assert len(authority.seen) == 2
            results = [await got() for _ in range(6)]
            assert all(wire is None for _, wire in results)

    run(test())


def test_closing_ends_what_is_under_way() -> None:
    async def test() -> None:
        delivered: Delivered = []
        async with serving(lambda *_: None) as (authority, port):
            upstream = Upstream.parse(f"{LOOPBACK}:{port}")
            carrier = Carrier([upstream], lambda i, wire: delivered.append((i, wire)))
            carrier.send(query(5))
            while not authority.seen:
                await asyncio.sleep(0.01)
            await carrier.close()
        assert delivered == [(5, None)]

    run(test())


def test_classes_carry_what_the_hook_sends_elsewhere() -> None:
    async def tailnet(wire: bytes, seconds: float) -> bytes | None:
        if b"broken" in wire:
            raise OSError
        return answer(dns.message.from_wire(wire)).to_wire()

    async def test() -> None:
        async with carrying(classes={"tailnet": tailnet}) as (carrier, got):
            carrier.send(query(1, to="tailnet"))
            assert parsed((await got())[1]).answer
            carrier.send(query(2, "broken.example", to="tailnet"))
            assert await got() == (2, None)

    run(test())


def test_addresses_of_a_name() -> None:
    async def test() -> None:
        async with serving() as (_, port), carrying(f"{LOOPBACK}:{port}") as (carrier, _got):
            addresses, ttl = await carrier.addresses("nas.example.com")
            assert addresses == [b"\xc0\0\2\7", bytes.fromhex("20010db8") + bytes(11) + b"\7"]
            assert ttl == 300
        async with carrying(resolv_conf="/nonexistent") as (carrier, _got):
            assert await carrier.addresses("nas.example.com") == ([], 0.0)

    run(test())


# --- settings -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("1.1.1.1", "udp://1.1.1.1:53"),
        (" 1.1.1.1:5353 ", "udp://1.1.1.1:5353"),
        ("fd00::1", "udp://[fd00::1]:53"),
        ("[fd00::1]:5353", "udp://[fd00::1]:5353"),
        ("udp://h:54", "udp://h:54"),
        ("tcp://[fd00::1]", "tcp://[fd00::1]:53"),
        ("tls://9.9.9.9#dns.quad9.net", "tls://9.9.9.9:853#dns.quad9.net"),
        ("tls://dns.quad9.net", "tls://dns.quad9.net:853"),
        ("https://dns.google/dns-query", "https://dns.google/dns-query"),
    ],
)
def test_text_form(text: str, canonical: str) -> None:
    upstream = Upstream.parse(text)
    assert str(upstream) == canonical
    assert Upstream.parse(canonical) == upstream


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        ("quic://1.1.1.1", "quic:// is not one of"),
        ("udp://", "is no address"),
        ("1.1.1.1:99999", "is no address"),
        ("1.1.1.1:0", "is no address"),
        ("[fd00::1", "is no address"),
        ("a b", "is no address"),
        ("https://me@dns.google/dns-query", "is no address"),
        ("https://dns.google", "lacks its path"),
        ("udp://1.1.1.1/path", "means nothing"),
        ("1.1.1.1#name", "means nothing"),
    ],
)
def test_mistakes_are_named(text: str, message: str) -> None:
    with pytest.raises(UpstreamError, match=message):
        Upstream.parse(text)


@pytest.mark.parametrize(
    "text", ["10.90.0.1", "[::ffff:10.90.0.1]:53", "tls://[fd00:0::1]", "0.0.0.0"]
)
def test_the_gateway_is_not_its_own_upstream(text: str) -> None:
    with pytest.raises(UpstreamError, match="its own upstream"):
        Carrier([Upstream.parse(text)], lambda *_: None, own=("10.90.0.1", "fd00::1"))


def test_a_name_that_leads_back_to_the_gateway_is_not_asked() -> None:
    async def test() -> None:
        async with serving() as (authority, port):
            own = (LOOPBACK, "::1")
            async with carrying(f"tcp://localhost:{port}", own=own) as (carrier, got):
                carrier.send(query())
                assert (await got())[1] is None
            assert not authority.seen

    run(test())


def test_the_hosts_resolvers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "resolv.conf"
    assert host_upstreams(path=str(path)) == ()
    path.write_text("nameserver 10.90.0.1\nnameserver 192.168.1.1\nnameserver fd00::1\n")
    found = host_upstreams(["10.90.0.1"], str(path))
    assert [upstream.host for upstream in found] == ["192.168.1.1", "fd00::1"]
    path.write_text("search lan\n")
    assert host_upstreams(path=str(path)) == ()

    def hosts(carrier: Carrier) -> list[str]:
        return [upstream.host for upstream in carrier.upstreams]

    async def test() -> None:
        async with carrying(own=("10.90.0.1",), resolv_conf=str(path)) as (carrier, _):
            assert hosts(carrier) == []
            path.write_text("nameserver 192.168.1.9\n")
            os.utime(path, (1, 1))
            assert hosts(carrier) == []  # not looked at yet
            monkeypatch.setattr(module, "RESOLV_CONF_CHECK", 0.0)
            assert hosts(carrier) == ["192.168.1.9"]
            path.unlink()
            assert hosts(carrier) == []

    run(test())
