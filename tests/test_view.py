"""The live view, drawn as text."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest
from rich.console import Console

from lopower import view
from lopower.view import View, age, rate, size, span, watch

STATUS: dict[str, Any] = {
    "endpoint": "10.0.0.1:51820",
    "online": 1,
    "devices": 2,
    "tcp_flows": 2,
    "udp_flows": 1,
    "rx_bytes": 5_000,
    "tx_bytes": 2_500_000,
}
FLOW = {
    "device": "lamp",
    "protocol": "tcp",
    "address": "100.64.0.9",
    "port": 443,
    "sent": 10,
    "received": 2000,
    "age": 70.0,
}


def device(name: str, **values: Any) -> dict[str, Any]:
    return {
        "id": name,
        "name": name,
        "enabled": True,
        "online": False,
        "pending": None,
        "addresses": ["10.90.0.2"],
        "last_handshake": None,
        "endpoint": None,
        "rx_bytes": 0,
        "tx_bytes": 0,
    } | values


def draw(renderable: Any) -> str:
    console = Console(width=120, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(renderable)
    return console.export_text()


def test_a_screen() -> None:
    devices = [
        device("off", enabled=False),
        device("new", pending={"purpose": "enrol"}),
        device("lamp", online=True, last_handshake=940.0, endpoint="192.168.1.5:4242"),
    ]
    text = draw(View().screen(STATUS, devices, [FLOW], 0.0, 1000.0))
    assert "10.0.0.1:51820  1 of 2 online  3 flows  ↓ 2.5 MB ↑ 5.0 kB" in text
    rows = [line.split() for line in text.splitlines()[2:5]]
    assert rows[0][:5] == ["●", "lamp", "10.90.0.2", "1", "min"]
    assert rows[1][:4] == ["○", "new", "10.90.0.2", "never"]
    assert rows[2][:2] == ["–", "off"]
    assert "100.64.0.9 443" in text


def test_rates_come_from_two_screens() -> None:
    screens = View()
    first = draw(screens.screen(STATUS, [device("lamp", rx_bytes=1000)], [], 10.0, 0.0))
    assert "/s" not in first
    later = [device("lamp", rx_bytes=3000, tx_bytes=10_000_000), device("new", rx_bytes=9)]
    text = draw(screens.screen(STATUS, later, [], 12.0, 0.0))
    assert "5.0 MB/s" in text
    assert "1.0 kB/s" in text
    assert text.count("/s") == 2
    restarted = draw(screens.screen(STATUS, [device("lamp")], [], 13.0, 0.0))
    assert "/s" not in restarted, "a counter that went back is no rate"


def test_there_is_room_for_so_many() -> None:
    many = [device(f"d{number}") for number in range(50)]
    text = draw(View().screen(STATUS, many, [FLOW] * 20, 0.0, 0.0))
    assert "and 10 more" in text
    assert text.count("100.64.0.9") == view.MAX_FLOWS


def test_names_are_no_markup() -> None:
    assert "[red]" in draw(View().screen(STATUS, [device("[red]")], [], 0.0, 0.0))


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1500, "1.5 kB"),
        (123_456, "123 kB"),
        (2e9, "2.0 GB"),
        (5e12, "5.0 TB"),
        (5e15, "5000.0 TB"),
    ],
)
def test_sizes(count: float, text: str) -> None:
    assert size(count) == text


def test_times_and_rates() -> None:
    assert [span(s) for s in (-5, 59, 60, 7300, 200_000)] == ["0 s", "59 s", "1 min", "2 h", "2 d"]
    assert age(None, 5.0) == "never"
    assert age(2.0, 5.0) == "3 s ago"
    assert (rate(0.4), rate(2000)) == ("", "2.0 kB/s")


class FakeAdministration:
    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        return {"status": STATUS, "devices": [device("lamp")], "flows": []}[operation]


def test_watching_until_cancelled() -> None:
    console = Console(width=100, record=True, force_terminal=True, file=open("/dev/null", "w"))  # noqa: SIM115

    async def look() -> None:
        task = asyncio.create_task(watch(FakeAdministration(), console=console, interval=0.001))
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(look())
    assert "lamp" in console.export_text()
