"""A registry on a clock of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lopower.devices import keys
from lopower.devices.device import Device
from lopower.devices.registry import Registry

START = 1_800_000_000.0


class Clock:
    """Unix time, moved by hand."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def registry(data: Path, clock: Clock) -> Iterator[Registry]:
    with Registry(data, clock=clock) as opened:
        yield opened


AddDevice = Callable[..., Device]


@pytest.fixture
def add(registry: Registry) -> AddDevice:
    """Adds a device with fresh keys."""

    def add_device(name: str = "lamp", **changes: object) -> Device:
        pair = keys.generate()
        arguments: dict[str, object] = {
            "public_key": pair.public,
            "preshared_key": keys.preshared(),
            "private_key": pair.private,
            "expires": START + 100,
            "addressing": "native",
            "fragments_ok": True,
            "profile": "wg-quick",
        }
        return registry.add_device(name, **(arguments | changes))  # type: ignore[arg-type]

    return add_device


def files_hold(data: Path, secret: bytes) -> list[str]:
    """The files of a data directory in which a secret can be found."""
    return [path.name for path in data.rglob("*") if path.is_file() and secret in path.read_bytes()]
