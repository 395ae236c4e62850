"""What a gateway under test is told, and what it must answer with: see bench/README.md."""

from __future__ import annotations

import os
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Contract:
    """The BENCH_* variables."""

    folder: Path
    endpoint: str
    port: int
    devices: int
    allow: tuple[str, ...]
    upstream: str

    @classmethod
    def read(cls) -> Contract:
        """The contract a start command finds in its environment."""
        return cls(
            folder=Path(os.environ["BENCH_DIR"]),
            endpoint=os.environ["BENCH_ENDPOINT"],
            port=int(os.environ["BENCH_PORT"]),
            devices=int(os.environ["BENCH_DEVICES"]),
            allow=tuple(os.environ["BENCH_ALLOW"].split()),
            upstream=os.environ["BENCH_UPSTREAM"],
        )

    def environment(self) -> dict[str, str]:
        """The contract as a start command finds it."""
        return {
            "BENCH_DIR": str(self.folder),
            "BENCH_ENDPOINT": self.endpoint,
            "BENCH_PORT": str(self.port),
            "BENCH_DEVICES": str(self.devices),
            "BENCH_ALLOW": " ".join(self.allow),
            "BENCH_UPSTREAM": self.upstream,
        }

    def profile(self, number: int) -> Path:
        """The file of device `number`, from 1 up."""
        return self.folder / f"device-{number}.conf"

    def write_profile(self, number: int, text: str) -> None:
        """Writes a device's file; it is there as a whole or not at all."""
        temporary = self.profile(number).with_suffix(".new")
        temporary.write_text(text)
        temporary.rename(self.profile(number))

    def written(self) -> bool:
        return all(self.profile(number).exists() for number in range(1, self.devices + 1))


def become(command: list[str], configure: object) -> None:
    """Turns this process into `command`; a child runs `configure` meanwhile and ends."""
    assert callable(configure)
    if os.fork() == 0:
        try:
            configure()
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(0)
    os.execv(command[0], command)
