"""The composition root: what is wired to what."""

from __future__ import annotations

import asyncio
import logging
import time
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from aiohttp import web

from lopower.api.control import ControlServer
from lopower.api.welcome import Welcome
from lopower.config import RunConfig
from lopower.devices.administration import Administration, Change
from lopower.devices.errors import UserError
from lopower.devices.registry import Registry
from lopower.dns.server import Server
from lopower.live import Live
from lopower.netstack.stack import Stack
from lopower.proxy.client import Client
from lopower.proxy.names import NameService
from lopower.proxy.policy import Context, parse_rules, routes
from lopower.proxy.proxy import Proxy
from lopower.proxy.stream import StreamTransport
from lopower.roster import Roster
from lopower.shell.capture import Capture
from lopower.shell.engine import Engine
from lopower.shell.outer import OuterSocket
from lopower.shell.poller import Poller
from lopower.shell.upstream import Carrier, Upstream, UpstreamError
from lopower.tailnet import host
from lopower.tailnet.system import SystemBackend
from lopower.wireguard import EndpointChanged, HandshakeCompleted, Interface

log = logging.getLogger(__name__)

HTTP_PORT = 80
HOUSEKEEPING = 5.0  # seconds: idle UDP mappings, pending keys, names in rules
SELDOM = 60.0  # seconds: counters (a memory card wears out), the host's own addresses
SAVE_SOON = 0.1  # seconds from a handshake until its endpoint is on the disk
RECONNECT_SPREAD = 1.0  # seconds over which a restarted gateway greets the devices it knows


class Gateway:
    """One running gateway; `registry` is open and locked."""

    def __init__(
        self, config: RunConfig, registry: Registry, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.config = config
        self.registry = registry
        self._loop = loop
        plan = registry.settings().plan
        four = [plan.gateway4.packed] if config.ipv4 else []
        self.addresses = (*four, plan.gateway6.packed)
        self.outer = _open(config)
        self.interface = Interface(registry.server_private_key, wall=time.time)
        broadcast = [plan.ipv4.broadcast_address.packed]
        self.stack = Stack(self.addresses, broadcast_addresses=broadcast, mtu=config.mtu)
        self.engine = Engine(loop, self.outer, self.interface, self.stack)
        self.poller = Poller(loop, self.engine.settle)
        self.backend = SystemBackend(loop, self.poller)
        self.proxy = Proxy(self.stack, self.backend, self.poller, self.addresses)
        self.context = self._surroundings()
        self.names = Server(
            self.context.zone,
            (four[0] if four else None, plan.gateway6.packed),
            self.context.devices,
            owner=lambda asked: asked.client,  # type: ignore[attr-defined]
        )
        self.roster = Roster(registry, self.interface, self.proxy, self.names, self.context)
        self.carrier = self._carrier()
        self.name_service = NameService(self.proxy, self.names)
        self.welcome = web.Server(Welcome(self._who, self._hosts()), access_log=None)
        self.live = Live(self)
        self.admin = Administration(
            registry,
            live=self.live,
            on_change=self._changed,
            routes=lambda rules: routes(parse_rules(rules), self.context, self.roster.pins()),
            endpoint=config.client_endpoint(self.outer.port),
        )
        self.control = ControlServer(self.admin, config.data)
        self._capture: Capture | None = None
        self._resolving: dict[str, asyncio.Task[None]] = {}
        self._saving = False
        self._seldom_at = time.monotonic() + SELDOM
        self._stopping = False
        self._wire()

    def _wire(self) -> None:
        self.engine.flows = self._settle
        self.engine.timed.append(self.names)
        self.proxy.datagrams[53] = self.name_service.on_datagram
        self.proxy.streams[53] = self.name_service.on_stream
        self.proxy.streams[HTTP_PORT] = self._serve_page
        if self.config.pcap is not None:
            self._capture = _capture(self.config.pcap)
            self.engine.tap = self._capture.write
        if not self.config.ipv4:
            self.names.set_filter(("ts.net",))
        self.roster.load()

    def _carrier(self) -> Carrier:
        try:
            return Carrier(
                [Upstream.parse(text) for text in self.config.upstreams],
                self._answered,
                own=[str(ip_address(address)) for address in self.addresses],
            )
        except UpstreamError as error:
            raise UserError(f"--upstream: {error}") from None

    def _surroundings(self) -> Context:
        """What policy must know of the host and of the tunnel."""
        plan = self.registry.settings().plan
        seen = host.look()
        return Context(
            gateway=self.addresses,
            devices=(plan.ipv4, plan.ipv6),
            services=frozenset({(HTTP_PORT, "tcp")}),
            host_addresses=seen.addresses,
            host_networks=seen.networks,
            reach=tuple(parse_rules(self.config.allow)),
        )

    # -- life --------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Serve devices, and the command line over the control socket."""
        await self.control.start()
        self.engine.start()
        self._greet()
        self._housekeeping()
        log.info("listening on UDP port %d", self.outer.port)

    async def stop(self) -> None:
        """Save everything and let go of every socket."""
        self._stopping = True
        await self.control.stop()
        self.roster.save(counters=True)
        self.proxy.close()
        await self.carrier.close()
        for task in list(self._resolving.values()):
            task.cancel()
        self.engine.stop()
        self.backend.close()
        self.poller.close()
        if self._capture is not None:
            self._capture.close()

    def _greet(self) -> None:
        """Start a handshake with every device whose endpoint is known, so that nobody waits."""
        awaited, self.roster.awaited = self.roster.awaited, []
        for index, peer in enumerate(awaited):
            self._loop.call_later(RECONNECT_SPREAD * index / len(awaited), self._initiate, peer)

    def _initiate(self, peer: Any) -> None:
        if not self._stopping:
            self.interface.initiate(peer, time.monotonic())
            self.engine.wake()

    def _housekeeping(self) -> None:
        if self._stopping:
            return
        now = time.monotonic()
        self.proxy.expire(now)
        self.name_service.expire(now)
        self.registry.expire(time.time())
        self._pin_names(now)
        if now >= self._seldom_at:
            self._seldom_at = now + SELDOM
            self._look_around()
        self.engine.wake()
        self._loop.call_later(HOUSEKEEPING, self._housekeeping)

    def _look_around(self) -> None:
        """Save counters; take note of other addresses and networks of the host."""
        self.roster.save(counters=True)
        context = self._surroundings()
        if context != self.context:
            log.info("the host's addresses have changed")
            self.context = context
            self.roster.set_context(context)

    def _pin_names(self, now: float) -> None:
        """Look up the names in rules whose addresses are not known, or no longer."""
        for policy in self.roster.policies():
            for name in policy.names_due(now):
                if name not in self._resolving:
                    self._resolving[name] = self._loop.create_task(self._pin(name))

    async def _pin(self, name: str) -> None:
        try:
            if name.endswith(f".{self.context.zone}"):
                addresses, ttl = self.roster.addresses_of(name), HOUSEKEEPING
            else:
                addresses, ttl = await self.carrier.addresses(name)
            for policy in self.roster.policies():
                policy.pin(name, addresses, ttl, time.monotonic())
        finally:
            del self._resolving[name]

    def now(self) -> float:
        """The clock of the cores."""
        return time.monotonic()

    # -- events ------------------------------------------------------------------------------------

    def _settle(self, now: float) -> bool:
        more = self.proxy.settle(now)
        self._ask_upstream()
        self.name_service.deliver()
        while (event := self.interface.next_event()) is not None:
            if isinstance(event, HandshakeCompleted):
                self.roster.handshake(event)
            elif isinstance(event, EndpointChanged):
                self.roster.moved(event)
            self.live.note(event)
        if self.roster.unsaved and not self._saving:
            self._saving = True
            self._loop.call_later(SAVE_SOON, self._save_soon)
        return more

    def _save_soon(self) -> None:
        self._saving = False
        if not self._stopping:
            self.roster.save()

    def _ask_upstream(self) -> None:
        for query in self.names.upstream_queries():
            self.carrier.send(query)

    def _answered(self, query: int, wire: bytes | None) -> None:
        """An upstream query has ended."""
        if not self._stopping:
            self.names.receive_upstream(query, wire, time.monotonic())
            self.engine.wake()

    def _changed(self, change: Change) -> None:
        """The registry was changed by a user."""
        if change.device is not None:
            self.roster.refresh(change.device.id)
            if change.kind == "changed" and change.device.timestamp_mark is None:
                self.roster.forget_timestamp(change.device.id)
        self._greet()
        self.engine.wake()

    # -- the page ----------------------------------------------------------------------------------

    def _serve_page(self, client: Client, connection: Any) -> None:
        source = str(ip_address(connection.remote[0]))
        extra = {"peername": (source, connection.remote[1])}
        StreamTransport(self.proxy, connection, self.welcome(), self.engine.wake, extra)

    def _hosts(self) -> frozenset[str]:
        texts = [str(ip_address(address)) for address in self.addresses]
        return frozenset([*(f"[{t}]" if ":" in t else t for t in texts), self.gateway_name])

    @property
    def gateway_name(self) -> str:
        return f"gateway.{self.context.zone}"

    def _who(self, source: str) -> dict[str, Any] | None:
        member = self.roster.at(source)
        if member is None:
            return None
        age = time.monotonic() - member.peer.last_handshake if member.peer.last_handshake else None
        client = self.proxy.client(member.peer)
        return {
            "name": member.device.name,
            "dns_name": f"{member.device.name}.{self.context.zone}",
            "addresses": member.device.addresses,
            "endpoint": str(member.peer.endpoint) if member.peer.endpoint else None,
            "handshake_age": age,
            "gateway": [str(ip_address(address)) for address in self.addresses],
            "gateway_name": self.gateway_name,
            "reach": [str(rule) for rule in client.policy.rules] if client else [],
        }


def _open(config: RunConfig) -> OuterSocket:
    host_, port = config.listen
    try:
        return OuterSocket(host_, port)
    except OSError as error:
        raise UserError(
            f"UDP port {port} cannot be opened ({error.strerror}): another program may hold it; "
            "choose another with --listen, or see `lopower doctor`."
        ) from None


def _capture(path: Path) -> Capture:
    try:
        return Capture(path, time.time)
    except OSError as error:
        raise UserError(f"--pcap: {path} cannot be written ({error.strerror}).") from None
