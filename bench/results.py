"""What was measured: collected by candidate and client, summed up as medians."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.measure import Numbers

Key = tuple[str, str]  # candidate, client


@dataclass
class Results:
    """All numbers of all rounds, and what went wrong."""

    values: dict[Key, dict[str, list[float]]] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)

    def add(self, candidate: str, client: str, numbers: Numbers) -> None:
        into = self.values.setdefault((candidate, client), {})
        for name, value in numbers.items():
            into.setdefault(name, []).append(value)

    def all(self, candidate: str, client: str, name: str) -> list[float]:
        return self.values.get((candidate, client), {}).get(name, [])

    def median(self, candidate: str, client: str, name: str) -> float | None:
        found = self.all(candidate, client, name)
        return statistics.median(found) if found else None

    def save(self, path: Path, aims: list[dict[str, object]]) -> None:
        """Writes everything as JSON."""
        document = {
            "machine": machine(),
            "aims": aims,
            "errors": self.errors,
            "results": [
                {"candidate": candidate, "client": client, "values": rounded(values)}
                for (candidate, client), values in self.values.items()
            ],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")


def rounded(values: dict[str, list[float]]) -> dict[str, list[float]]:
    return {name: [float(f"{value:.5g}") for value in found] for name, found in values.items()}


def machine() -> dict[str, str]:
    """What a reader needs to compare: processor, memory, kernel, Python, date."""
    models = [
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    kilobytes = int(Path("/proc/meminfo").read_text().split()[1])
    return {
        "processor": models[0] if models else platform.machine(),
        "cores": str(os.cpu_count()),
        "memory": f"{kilobytes / 1e6:.0f} GB",
        "kernel": f"Linux {'.'.join(platform.release().split('.')[:2])}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
    }
