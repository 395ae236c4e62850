"""Bytes between the outer socket, WireGuard and the netstack; one timer for all deadlines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from time import monotonic
from typing import Any, Protocol

from lopower.bursts import Rows
from lopower.endpoint import Endpoint
from lopower.netstack.stack import Stack
from lopower.shell.outer import OuterSocket
from lopower.wireguard import Interface, Peer

log = logging.getLogger(__name__)

# Event loops count in milliseconds, and arming a finer timer costs a virtual machine as much as
# sealing thirty packets: what is due sooner goes with the next acknowledgement, or a little later.
TIMER_GRAIN = 0.001

Tap = Callable[[Peer, bytes | memoryview], None]  # sees every inner packet


class Timed(Protocol):
    """A core with deadlines."""

    def deadline(self) -> float | None: ...

    def handle_timer(self, now: float) -> None: ...


class Engine:
    """Drains the outer socket, feeds the cores, sends what they made.

    `flows(now)` is called once for each wake-up, after the packets came in and before the answers
    go out; it says whether it has work left for the next turn.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        outer: OuterSocket,
        interface: Interface,
        stack: Stack,
    ) -> None:
        self._loop = loop
        self.outer = outer
        self.interface = interface
        self.stack = stack
        self.flows: Callable[[float], bool] = lambda now: False
        self.tap: Tap | None = None
        self.timed: list[Timed] = [interface, stack]
        self.now = monotonic()
        self._timer: asyncio.TimerHandle | None = None
        self._due = float("inf")
        self._scheduled = False
        self._writing = False

    def start(self) -> None:
        """Begin to receive."""
        self._loop.add_reader(self.outer.fileno(), self._on_readable)
        self.settle()

    def stop(self) -> None:
        """Send what is left and let go of the socket."""
        self.settle()
        if self._timer is not None:
            self._timer.cancel()
        self._loop.remove_reader(self.outer.fileno())
        if self._writing:
            self._loop.remove_writer(self.outer.fileno())
        self.outer.close()

    def wake(self) -> None:
        """Settle once in this turn of the loop, however often it is asked."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self.settle)

    # -- in ------------------------------------------------------------------------------------

    def _on_readable(self) -> None:
        self.now = now = monotonic()
        for rows, source in self.outer.receive():
            try:
                self._receive(rows, source, now)
            except Exception:
                log.exception("a datagram could not be handled")
        self.settle()

    def _receive(self, rows: Rows, source: Endpoint, now: float) -> None:
        opened = self.interface.receive_burst(rows, source, now) if len(rows.views) > 1 else None
        if opened is None:
            receive = self.interface.receive
            for datagram in rows.views:
                inner = receive(datagram, source, now)
                if inner is not None:
                    self._deliver(*inner, now)
            return
        peer, packets = opened
        if self.tap is not None or not self.stack.receive_burst(peer, packets, now):
            for packet in packets:
                self._deliver(peer, packet.data, now)

    def _deliver(self, peer: Peer, packet: memoryview, now: float) -> None:
        if self.tap is not None:
            self.tap(peer, packet)
        self.stack.receive(peer, packet, now)

    # -- out -----------------------------------------------------------------------------------

    def settle(self) -> None:
        """Let the flows act on what came, send everything that is due, set the timer."""
        self._scheduled = False
        self.now = now = monotonic()
        if self.flows(now):
            self.wake()
        self.stack.flush(now, self)
        self._send_queue()
        self._set_timer()

    def packet(self, link: Any, packet: bytes) -> None:
        """A packet of the stack for this device."""
        if self.tap is not None:
            self.tap(link, packet)
        self.interface.send(link, packet, self.now)

    def burst(self, link: Any, packets: Rows) -> None:
        """A burst of the stack for this device; what was queued before goes first."""
        if self.tap is not None:
            for view in packets.views:
                self.tap(link, view)
        self._send_queue()
        sealed = self.interface.send_burst(link, packets, self.now)
        if sealed is None:
            for view in packets.views:
                self.interface.send(link, bytes(view), self.now)
        else:
            self.outer.send_burst(*sealed)
            self._watch_blocked()

    def _send_queue(self) -> None:
        datagrams = self.interface.datagrams_to_send()
        if datagrams:
            self.outer.send_many(datagrams)
            self._watch_blocked()

    def _watch_blocked(self) -> None:
        if self.outer.blocked and not self._writing:
            self._writing = True
            self._loop.add_writer(self.outer.fileno(), self._on_writable)

    def _on_writable(self) -> None:
        self.outer.unblock()
        if not self.outer.blocked:
            self._writing = False
            self._loop.remove_writer(self.outer.fileno())

    # -- time ----------------------------------------------------------------------------------

    def _set_timer(self) -> None:
        due = self._due - TIMER_GRAIN
        for core in self.timed:
            deadline = core.deadline()
            if deadline is not None and deadline < due:
                due = deadline
        # A timer that fires early costs one look; one set anew for each burst costs more.
        if due < self._due - TIMER_GRAIN:
            if self._timer is not None:
                self._timer.cancel()
            delay = max(due - self.now, TIMER_GRAIN)
            self._due = self.now + delay
            self._timer = self._loop.call_later(delay, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._due = float("inf")
        self.now = now = monotonic()
        for core in self.timed:
            core.handle_timer(now)
        self.settle()
