"""`--pcap FILE`: every inner packet, for Wireshark."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from lopower.netstack import pcap


class Capture:
    """Writes what it is shown; the file is whole after each packet."""

    def __init__(self, path: Path, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._file = path.open("wb", buffering=0)
        self._file.write(pcap.file_header())

    def write(self, peer: Any, packet: bytes | memoryview) -> None:
        self._file.write(pcap.record(packet, self._wall()))

    def close(self) -> None:
        self._file.close()
