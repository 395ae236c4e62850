"""What LoPower aims for, as ratios to others in the same run or as absolute bounds."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass

from bench.measure import IDLE_FLOWS
from bench.plan import DEVICES
from bench.results import Results

US = "lopower"
TRANSFERS = ("down1", "up1", "down8", "up8")


@dataclass(frozen=True)
class Verdict:
    """One aim: `measured` is None where it could not be measured."""

    aim: str
    bound: float
    at_least: bool
    measured: float | None

    @property
    def met(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured >= self.bound if self.at_least else self.measured <= self.bound

    def as_dict(self) -> dict[str, object]:
        return {**asdict(self), "met": self.met}


class Judge:
    """Holds the results against the aims."""

    def __init__(self, results: Results) -> None:
        self.results = results
        self.verdicts: list[Verdict] = []

    def all(self) -> list[Verdict]:
        self._throughput()
        self._latency()
        self._handshakes()
        self._memory()
        return self.verdicts

    def _throughput(self) -> None:
        for transfer in TRANSFERS:
            self._ratio(f"{transfer} Mbit/s", "current", "kernel", 0.9, at_least=True)
            self._ratio(f"{transfer} CPU s/GB", "current", "kernel", 1.25)
        for transfer in TRANSFERS:
            self._ratio(f"{transfer} Mbit/s", "debian", "kernel", 1.0, at_least=True)
            self._ratio(f"{transfer} CPU s/GB", "debian", "kernel", 0.8)
            self._steady(f"{transfer} Mbit/s", "debian", 0.25)
        self._ratio("down1 Mbit/s", "debian", "mitmproxy", 4.0, at_least=True)
        self._ratio("up1 Mbit/s", "debian", "mitmproxy", 1.2, at_least=True)
        for transfer in ("down1", "up1"):
            self._at_scale(transfer)

    def _latency(self) -> None:
        self._ratio("connect p50 µs", "current", "kernel", 1.3)
        self._ratio("connect p99 µs", "current", "kernel", 2.0)
        self._ratio("udp p50 µs", "current", "kernel", 1.25)
        self._absolute("connections/s", 3000, at_least=True)
        self._absolute("connections failed", 0)
        self._absolute("dns answers/s", 40_000, at_least=True)
        self._absolute("dns p50 µs", 400)

    def _handshakes(self) -> None:
        self._absolute("handshake CPU µs", 250)
        self._absolute("handshakes/s", 4000, at_least=True)
        self._absolute("wrong mac1 CPU µs", 3)

    def _memory(self) -> None:
        self._absolute("memory idle MB", 80)
        self._absolute("memory after MB", 150)
        self._absolute("memory at scale MB", 150 + IDLE_FLOWS * 20 / 1000 + DEVICES * 8 / 1000)
        self._absolute("idle tcp flow KB", 16)
        self._absolute("idle udp flow KB", 4)
        idle = self.results.median(US, "current", "memory idle MB")
        many = self.results.median(US, "current", f"memory with {DEVICES} devices MB")
        each = (many - idle) * 1000 / (DEVICES - 1) if many and idle else None
        self.verdicts.append(Verdict("idle device KB", 8, False, each))

    def _ratio(
        self, name: str, client: str, other: str, bound: float, at_least: bool = False
    ) -> None:
        ours = self.results.median(US, client, name)
        theirs = self.results.median(other, client, name)
        measured = ours / theirs if ours is not None and theirs else None
        aim = f"{name}, {client} client, ratio to {other}"
        self.verdicts.append(Verdict(aim, bound, at_least, measured))

    def _absolute(self, name: str, bound: float, at_least: bool = False) -> None:
        measured = self.results.median(US, "current", name)
        self.verdicts.append(Verdict(name, bound, at_least, measured))

    def _steady(self, name: str, client: str, bound: float) -> None:
        """The furthest any round is from the median."""
        rounds = self.results.all(US, client, name)
        middle = statistics.median(rounds) if rounds else 0
        furthest = max(abs(one / middle - 1) for one in rounds) if middle else None
        aim = f"{name}, {client} client, furthest round from the median"
        self.verdicts.append(Verdict(aim, bound, False, furthest))

    def _at_scale(self, transfer: str) -> None:
        name = f"{transfer} Mbit/s"
        alone = self.results.median(US, "current", name)
        crowded = self.results.median(US, "current", f"{name} at scale")
        measured = crowded / alone if crowded is not None and alone else None
        aim = f"{name} with {DEVICES} devices and {2 * IDLE_FLOWS} idle flows, ratio to one device"
        self.verdicts.append(Verdict(aim, 0.9, True, measured))
