"""Carries the DNS server's upstream queries: over UDP, TCP, TLS (RFC 7858) and HTTPS (RFC 8484).

An upstream is written `1.1.1.1`, `udp://192.168.1.1:53`, `tcp://[fd00::1]`,
`tls://9.9.9.9#dns.quad9.net` or `https://dns.google/dns-query`. Without any, the host's own
resolvers are asked, as they stand in resolv.conf at the time.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from time import monotonic
from typing import Any, Literal, cast
from urllib.parse import SplitResult, urlsplit

import dns.asyncbackend
import dns.asyncquery
import dns.exception
import dns.inet
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver

from lopower.dns.server import UpstreamQuery

__all__ = ["Carrier", "Upstream", "UpstreamError", "host_upstreams"]

Scheme = Literal["udp", "tcp", "tls", "https"]
Ask = Callable[[bytes, float], Awaitable[bytes | None]]
Deliver = Callable[[int, bytes | None], None]

ATTEMPTS = (1.2, 1.5, 1.8)  # seconds; together below what stub resolvers wait (5 s)
BUDGET = sum(ATTEMPTS)
CONCURRENCY = 64  # sockets open at a time
FAILURES = 3  # in a row, before an upstream is asked last
REST = 30.0  # seconds it is asked last for
IDLE = 20.0  # seconds a connection is kept; servers close after 10 to 30
MAX_IDLE = 2  # connections kept for an upstream
NAME_TTL = 300.0  # seconds the address of an upstream given by name is kept
RESOLV_CONF = "/etc/resolv.conf"
RESOLV_CONF_CHECK = 10.0  # seconds between looks at it

_DNS = {"content-type": "application/dns-message", "accept": "application/dns-message"}
DEFAULT_PORTS: dict[str, int] = {"udp": 53, "tcp": 53, "tls": 853, "https": 443}


class UpstreamError(ValueError):
    """An upstream that cannot be used; the message is one sentence for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where to send queries. `name` is what a TLS certificate must be for."""

    scheme: Scheme
    host: str
    port: int
    name: str = ""
    url: str = ""

    @classmethod
    def parse(cls, text: str) -> Upstream:
        """Read the text form; UpstreamError says what is wrong with it."""
        text = text.strip()
        if not text:
            raise UpstreamError("An upstream cannot be empty.")
        try:
            bare = dns.inet.is_address(text) and ":" in text
            parts = urlsplit(
                text if "://" in text else f"udp://[{text}]" if bare else f"udp://{text}"
            )
            host, port = parts.hostname, parts.port
        except ValueError:
            raise UpstreamError(f"{text[:80]!r} is no address, host and port, or URL.") from None
        if parts.scheme not in DEFAULT_PORTS:
            raise UpstreamError(f"{parts.scheme[:20]}:// is not one of udp, tcp, tls and https.")
        if not host or port == 0 or parts.username is not None or any(c.isspace() for c in text):
            raise UpstreamError(f"{text[:80]!r} is no address, host and port, or URL.")
        _refuse_extras(text, parts)
        scheme = cast(Scheme, parts.scheme)
        return cls(
            scheme, host, port or DEFAULT_PORTS[scheme], parts.fragment, text * (scheme == "https")
        )

    def __str__(self) -> str:
        if self.url:
            return self.url
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}" + (f"#{self.name}" if self.name else "")


def _refuse_extras(text: str, parts: SplitResult) -> None:
    if parts.scheme == "https":
        if parts.path in ("", "/") or parts.fragment:
            raise UpstreamError(f"{text[:80]!r} lacks its path, usually /dns-query.")
    elif parts.path.strip("/") or parts.query or (parts.fragment and parts.scheme != "tls"):
        raise UpstreamError(f"{text[:80]!r} has something after the port that means nothing here.")


def host_upstreams(own: Iterable[str] = (), path: str = RESOLV_CONF) -> tuple[Upstream, ...]:
    """The host's resolvers, without the gateway's own addresses; none where there are none."""
    resolver = dns.resolver.Resolver(configure=False)
    try:
        resolver.read_resolv_conf(path)
    except (OSError, dns.resolver.NoResolverConfiguration):
        return ()
    ours = {_plain(address) for address in own}
    servers = (str(server) for server in resolver.nameservers)
    return tuple(Upstream("udp", s, resolver.port) for s in servers if _plain(s) not in ours)


def _plain(host: str) -> str:
    """An address in one spelling; a name as it is."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower()
    return str(getattr(address, "ipv4_mapped", None) or address)


class Carrier:
    """Asks upstreams in order, each query within BUDGET seconds, and delivers what they say."""

    def __init__(
        self,
        upstreams: Sequence[Upstream] | None,
        deliver: Deliver,
        *,
        own: Iterable[str] = (),
        classes: dict[str, Ask] | None = None,
        ssl_context: ssl.SSLContext | None = None,
        resolv_conf: str = RESOLV_CONF,
    ) -> None:
        """No upstreams: the host's resolvers. `own` are the gateway's addresses, never to be asked.

        `classes` carry the queries that the DNS server's hook sends elsewhere.
        """
        self._own = frozenset(map(_plain, own))
        for upstream in upstreams or ():
            self._refuse_own(upstream.host)
        self._upstreams = tuple(upstreams or ())
        self._host = _HostResolvers(self._own, resolv_conf) if not upstreams else None
        self._deliver = deliver
        self._classes = classes or {}
        self._ssl_context = ssl_context
        self._slots = asyncio.Semaphore(CONCURRENCY)
        self._tasks: set[asyncio.Task[None]] = set()
        self._health: dict[Upstream, _Health] = {}
        self._streams = _Streams()
        self._names: dict[str, tuple[str, float]] = {}
        self._client: Any = None

    def _refuse_own(self, host: str) -> None:
        if _plain(host) in self._own or _plain(host) in ("0.0.0.0", "::"):  # noqa: S104
            raise UpstreamError(f"{host} is the gateway itself, which cannot be its own upstream.")

    @property
    def upstreams(self) -> tuple[Upstream, ...]:
        """Whom to ask, best first."""
        found = self._host.current() if self._host is not None else self._upstreams
        now = monotonic()
        return tuple(sorted(found, key=lambda u: u in self._health and self._health[u].rests(now)))

    def send(self, query: UpstreamQuery) -> None:
        """Carry a query; its end is delivered, whatever it is."""
        task = asyncio.get_running_loop().create_task(self._carry(query))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _carry(self, query: UpstreamQuery) -> None:
        wire = None
        try:
            wire = await self.ask(query.wire, query.to)
        finally:
            self._deliver(query.id, wire)

    async def ask(self, wire: bytes, to: str = "") -> bytes | None:
        """The answer to a query within BUDGET seconds, None where there is none."""
        try:
            async with asyncio.timeout(BUDGET), self._slots:
                ask = self._classes.get(to)
                return await (self._ask(wire) if ask is None else ask(wire, BUDGET))
        except (OSError, TimeoutError, ValueError):
            return None

    async def addresses(self, name: str) -> tuple[list[bytes], float]:
        """The packed addresses of a name and their TTL in seconds."""
        found: list[bytes] = []
        ttl = 0.0
        for rdtype in (dns.rdatatype.A, dns.rdatatype.AAAA):
            query = dns.message.make_query(name, rdtype, use_edns=0, payload=1232)
            wire = await self.ask(query.to_wire())
            for rrset in dns.message.from_wire(wire).answer if wire is not None else ():
                if rrset.rdtype == rdtype:
                    ttl = min(ttl, rrset.ttl) if found else rrset.ttl
                    found += [ip_address(rdata.address).packed for rdata in rrset]
        return found, ttl

    async def _ask(self, wire: bytes) -> bytes | None:
        """Try upstreams in turn; one that fails for good is not asked again for this query."""
        left, answer = list(self.upstreams), None
        for attempt in range(max(len(ATTEMPTS), len(left))):
            if not left:
                break
            upstream = left.pop(0)
            query = dns.message.from_wire(wire)
            query.id = secrets.randbelow(1 << 16)
            seconds = ATTEMPTS[min(attempt, len(ATTEMPTS) - 1)]
            response = await self._try(upstream, query, seconds)
            if response is None:
                left.append(upstream)
                continue
            answer = response.wire or response.to_wire()
            if response.rcode() in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
                break
        return answer

    async def _try(
        self, upstream: Upstream, query: dns.message.Message, seconds: float
    ) -> dns.message.Message | None:
        health = self._health.setdefault(upstream, _Health())
        try:
            async with asyncio.timeout(seconds):
                response = await self._exchange(upstream, query)
        except Exception:  # sockets, TLS, HTTP and parsing each fail in their own ways
            health.failed(monotonic())
            return None
        health.failures = 0
        return response

    async def _exchange(
        self, upstream: Upstream, query: dns.message.Message
    ) -> dns.message.Message:
        if upstream.scheme == "https":
            return await self._https(upstream, query)
        where = await self._address(upstream)
        if upstream.scheme == "udp":
            return await _udp(query, where, upstream.port)
        context = self._context() if upstream.scheme == "tls" else None
        return await self._streams.exchange(upstream, where, context, query)

    async def _address(self, upstream: Upstream) -> str:
        """The address of an upstream; a name is looked up by the host."""
        if dns.inet.is_address(upstream.host):
            return upstream.host
        address, until = self._names.get(upstream.host, ("", 0.0))
        if monotonic() >= until:
            loop = asyncio.get_running_loop()
            found = await loop.getaddrinfo(upstream.host, upstream.port, type=socket.SOCK_STREAM)
            address = str(found[0][4][0])
            self._refuse_own(address)
            self._names[upstream.host] = address, monotonic() + NAME_TTL
        return address

    def _context(self) -> ssl.SSLContext:
        if self._ssl_context is None:
            self._ssl_context = ssl.create_default_context()
        return self._ssl_context

    async def _https(self, upstream: Upstream, query: dns.message.Message) -> dns.message.Message:
        if self._client is None:
            import httpx2  # speaks HTTP/2, which some public resolvers insist on

            self._client = httpx2.AsyncClient(http2=True, verify=self._context(), trust_env=False)
        answer = await self._client.post(upstream.url, content=query.to_wire(), headers=_DNS)
        answer.raise_for_status()
        response = dns.message.from_wire(answer.content)
        if not query.is_response(response):
            raise dns.exception.FormError
        return response

    async def close(self) -> None:
        """End everything; queries under way are delivered as failed."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._streams.close()
        if self._client is not None:
            await self._client.aclose()
            self._client = None


async def _udp(query: dns.message.Message, where: str, port: int) -> dns.message.Message:
    """Over a connected socket of its own, so a random port and errors at once; TCP if truncated."""
    family = dns.inet.af_for_address(where)
    backend: Any = dns.asyncbackend.get_default_backend()
    async with await backend.make_socket(family, socket.SOCK_DGRAM, 0, None, (where, port)) as sock:
        response, _ = await dns.asyncquery.udp_with_fallback(
            query,
            where,
            port=port,
            udp_sock=sock,
            ignore_unexpected=True,
            ignore_errors=True,
        )
    return response


class _Streams:
    """Connections to upstreams, one query at a time on each, kept for the next."""

    def __init__(self) -> None:
        self._idle: dict[Upstream, list[tuple[Any, float]]] = {}

    async def exchange(
        self,
        upstream: Upstream,
        where: str,
        context: ssl.SSLContext | None,
        query: dns.message.Message,
    ) -> dns.message.Message:
        kept = await self._take(upstream)
        if kept is not None:
            try:
                return await self._on(kept, upstream, where, query)
            except (OSError, EOFError):
                pass  # closed by the server meanwhile
        backend: Any = dns.asyncbackend.get_default_backend()
        stream = await backend.make_socket(
            dns.inet.af_for_address(where),
            socket.SOCK_STREAM,
            0,
            None,
            (where, upstream.port),
            None,
            context,
            (upstream.name or upstream.host) if context is not None else None,
        )
        return await self._on(stream, upstream, where, query)

    async def _on(
        self,
        stream: Any,
        upstream: Upstream,
        where: str,
        query: dns.message.Message,
    ) -> dns.message.Message:
        try:
            response = await dns.asyncquery.tcp(query, where, sock=stream)
        except BaseException:
            await stream.close()
            raise
        idle = self._idle.setdefault(upstream, [])
        if len(idle) < MAX_IDLE:
            idle.append((stream, monotonic()))
        else:
            await stream.close()
        return response

    async def _take(self, upstream: Upstream) -> Any:
        idle = self._idle.get(upstream, [])
        while idle:
            stream, since = idle.pop()
            if monotonic() - since < IDLE:
                return stream
            await stream.close()
        return None

    async def close(self) -> None:
        for idle in self._idle.values():
            for stream, _ in idle:
                await stream.close()
        self._idle.clear()


@dataclass(slots=True)
class _Health:
    """How an upstream does."""

    failures: int = 0
    until: float = 0.0

    def failed(self, now: float) -> None:
        self.failures += 1
        if self.failures >= FAILURES:
            self.until = now + REST

    def rests(self, now: float) -> bool:
        return self.failures >= FAILURES and now < self.until


class _HostResolvers:
    """The host's resolvers, read again when resolv.conf changes."""

    def __init__(self, own: Iterable[str], path: str) -> None:
        self._own = tuple(own)
        self._path = path
        self._checked = float("-inf")
        self._modified = -1
        self._found: tuple[Upstream, ...] = ()

    def current(self) -> tuple[Upstream, ...]:
        now = monotonic()
        if now - self._checked >= RESOLV_CONF_CHECK:
            self._checked = now
            try:
                modified = os.stat(self._path).st_mtime_ns
            except OSError:
                modified = 0
            if modified != self._modified:
                self._modified = modified
                self._found = host_upstreams(self._own, self._path)
        return self._found
