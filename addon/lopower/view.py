"""The live view: who is there, since when, how fast, and which flows are open."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

Json = Mapping[str, Any]
INTERVAL = 1.0
MAX_FLOWS = 10  # the newest; more would push the devices off the screen
MAX_DEVICES = 40


class Caller(Protocol):
    """An Administration, or a client of one."""

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """The operation's result."""
        ...


class View:
    """Turns snapshots into screens; remembers the one before for the rates."""

    def __init__(self) -> None:
        self._before: dict[str, tuple[int, int]] = {}
        self._at: float | None = None

    def screen(
        self, status: Json, devices: Sequence[Json], flows: Sequence[Json], now: float, wall: float
    ) -> RenderableType:
        """One screen; `now` is monotonic, `wall` unix time."""
        rates = self._rates(devices, now)
        parts: list[RenderableType] = [summary(status), device_table(devices, rates, wall)]
        if flows:
            parts.append(flow_table(flows))
        return Group(*parts)

    def _rates(self, devices: Sequence[Json], now: float) -> dict[str, tuple[float, float]]:
        span = 0.0 if self._at is None else now - self._at
        counters = {d["id"]: (int(d["rx_bytes"]), int(d["tx_bytes"])) for d in devices}
        rates = {}
        for device, (rx, tx) in counters.items():
            old_rx, old_tx = self._before.get(device, (rx, tx))
            if span > 0:
                rates[device] = (max(rx - old_rx, 0) / span, max(tx - old_tx, 0) / span)
        self._before, self._at = counters, now
        return rates


def summary(status: Json) -> Text:
    """One line about the gateway."""
    endpoint = status.get("endpoint") or "no address"
    flows = status.get("tcp_flows", 0) + status.get("udp_flows", 0)
    return Text.assemble(
        ("LoPower ", "bold"),
        f"{endpoint}  {status['online']} of {status['devices']} online  {flows} flows  ",
        f"↓ {size(status['tx_bytes'])} ↑ {size(status['rx_bytes'])}",
        no_wrap=True,
        overflow="ellipsis",
    )


def device_table(
    devices: Sequence[Json], rates: Mapping[str, tuple[float, float]], wall: float
) -> Table:
    """A line for each device, those online first."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("", "device", "address", "seen", "endpoint", "to it", "from it"):
        right = title.endswith("it")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    ordered = sorted(devices, key=lambda device: (not device["online"], device["name"]))
    for device in ordered[:MAX_DEVICES]:
        up, down = rates.get(device["id"], (0.0, 0.0))
        table.add_row(
            mark(device),
            Text(device["name"]),
            device["addresses"][0],
            age(device["last_handshake"], wall),
            device["endpoint"] or "",
            rate(down),
            rate(up),
        )
    if len(ordered) > MAX_DEVICES:
        table.add_row("", f"and {len(ordered) - MAX_DEVICES} more")
    return table


def flow_table(flows: Sequence[Json]) -> Table:
    """The newest flows."""
    table = Table(box=None, pad_edge=False, header_style="bold", title_justify="left")
    for title in ("flow", "to", "sent", "received", "age"):
        table.add_column(title, no_wrap=True)
    for flow in flows[:MAX_FLOWS]:
        where = f"{flow['address']} {flow['port']}" if flow.get("address") else ""
        table.add_row(
            Text(f"{flow['device']} {flow['protocol']}"),
            where,
            size(flow["sent"]),
            size(flow["received"]),
            span(flow["age"]),
        )
    return table


def mark(device: Json) -> Text:
    """A dot that says how a device is."""
    if not device["enabled"]:
        return Text("–", "dim")
    if device["online"]:
        return Text("●", "green")
    return Text("○", "yellow" if device["pending"] else "dim")


def size(count: float) -> str:
    """Bytes, short."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" or count >= 100 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def rate(bytes_per_second: float) -> str:
    """Bytes per second, short; nothing for silence."""
    return f"{size(bytes_per_second)}/s" if bytes_per_second >= 1 else ""


def span(seconds: float) -> str:
    """A length of time, short."""
    seconds = max(seconds, 0.0)
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def age(moment: float | None, wall: float) -> str:
    """How long ago, or that it never was."""
    return "never" if moment is None else f"{span(wall - moment)} ago"


def snapshot(view: View, caller: Caller) -> RenderableType:
    """A screen of this moment."""
    status, devices, flows = (caller.call(name, {}) for name in ("status", "devices", "flows"))
    return view.screen(status, devices, flows, time.monotonic(), time.time())


async def watch(
    caller: Caller, *, console: Console | None = None, interval: float = INTERVAL
) -> None:
    """Show the view until cancelled."""
    view = View()
    with Live(snapshot(view, caller), console=console, auto_refresh=False) as live:
        while True:
            await asyncio.sleep(interval)
            live.update(snapshot(view, caller), refresh=True)
