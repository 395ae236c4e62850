"""TCP's throughput over a simulated network: loss, delay, queue, on a virtual clock.

Two of the gateway's own TCPs talk over a bottleneck of 100 Mbit/s. Nothing depends on the machine:
the same code gives the same table anywhere, so a change of behaviour shows as a change of figures.

    python -m bench.netsim            prints the table and writes bench/results/netsim.json
    python -m bench.netsim --check    fails where a figure is more than 10 % below the stored one
"""

from __future__ import annotations

import argparse
import json
import sys
from itertools import product
from pathlib import Path
from typing import NamedTuple

from tests.netstack.tcp.pair import Conditions, Pair, Transfer, run_transfers

RESULTS = Path(__file__).parent / "results" / "netsim.json"
TOLERANCE = 0.10

RATE = 12_500_000  # bytes a second
AMOUNT = 4_000_000
LOSSES = (0.0, 0.001, 0.01, 0.05)
ROUND_TRIPS_MS = (2, 20, 100)
# A small device's buffer, a UDP socket's default, a fair share of a router's.
QUEUES_KB = (16, 110, 1000)
SEEDS = (1, 2)


class Case(NamedTuple):
    """One cell of the table."""

    loss: float
    round_trip_ms: int
    queue_kb: int

    @property
    def name(self) -> str:
        return f"loss {self.loss:.1%}, {self.round_trip_ms} ms, {self.queue_kb} KB"


def measure(case: Case) -> float:
    """Mbit/s of payload from the gateway to a device, the mean of a few runs."""
    return sum(_run(case, seed) for seed in SEEDS) / len(SEEDS)


def _run(case: Case, seed: int) -> float:
    delay = case.round_trip_ms / 2000
    queue = case.queue_kb * 1000
    down = Conditions(delay=delay, loss=case.loss, rate=RATE, queue=queue)
    up = Conditions(delay=delay, loss=case.loss)
    pair = Pair(up, down, seed=seed, checked=False)
    device, gateway = pair.establish()
    begun = pair.now
    transfer = Transfer(pair, gateway, device, bytes(AMOUNT))
    run_transfers(pair, [transfer])
    return AMOUNT * 8 / 1e6 / (transfer.done_at - begun)


def cases() -> list[Case]:
    return [Case(*cell) for cell in product(LOSSES, ROUND_TRIPS_MS, QUEUES_KB)]


def table(figures: dict[str, float]) -> str:
    """Rows are loss and round trip, columns are queues."""
    head = "".join(f"{f'{queue} KB':>10}" for queue in QUEUES_KB)
    lines = [f"{'loss':>6}{'RTT':>9}{head}   Mbit/s of 100"]
    for loss, round_trip in product(LOSSES, ROUND_TRIPS_MS):
        row = (figures[Case(loss, round_trip, queue).name] for queue in QUEUES_KB)
        cells = "".join(f"{figure:>10.2f}" for figure in row)
        lines.append(f"{loss:>6.1%}{round_trip:>6} ms{cells}")
    return "\n".join(lines)


def regressions(figures: dict[str, float], stored: dict[str, float]) -> list[str]:
    """What has become slower by more than the tolerance."""
    return [
        f"{name}: {figures[name]:.2f} Mbit/s, was {before:.2f}"
        for name, before in stored.items()
        if figures.get(name, 0.0) < before * (1 - TOLERANCE)
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, prog="python -m bench.netsim")
    parser.add_argument("--check", action="store_true", help="compare with the stored results")
    check = parser.parse_args().check
    figures = {case.name: round(measure(case), 3) for case in cases()}
    print(table(figures))
    if not check:
        RESULTS.write_text(json.dumps(figures, indent=1) + "\n")
        return 0
    slower = regressions(figures, json.loads(RESULTS.read_text()))
    for line in slower:
        print("slower:", line)
    return 1 if slower else 0


if __name__ == "__main__":
    sys.exit(main())
