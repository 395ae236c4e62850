"""`script/bench`: the gateway beside others, between real WireGuard clients and a target."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.aims import Judge
from bench.candidates import Candidate, known
from bench.plan import DEVICES, FULL, QUICK, Plan, Step, scale, traffic
from bench.report import report
from bench.results import Results
from bench.session import Session
from tests.lab import peers
from tests.lab.client import Implementation, command
from tests.lab.namespace import sweep, why_not


def main() -> int:
    """Measures, prints the tables, and writes --json; 1 if anything could not be measured."""
    options = arguments()
    peers.prepare(peers.FOR_BENCH)
    if reason := why_not() or lacking():
        sys.exit(f"script/bench {reason}")
    sweep()
    results = Results()
    candidates, missing = known()
    results.errors += missing
    candidates += [Candidate.parse(text) for text in options.candidate]
    if options.only:
        candidates = [each for each in candidates if each.name in options.only]
    run(candidates, QUICK if options.quick else FULL, results)
    print(report(results))
    if options.json:
        results.save(options.json, [verdict.as_dict() for verdict in Judge(results).all()])
    return int(bool(results.errors))


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, under 4 minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    parser.add_argument(
        "--candidate",
        action="append",
        default=[],
        metavar="NAME=COMMAND",
        help="measure another gateway too; bench/README.md says what COMMAND must do",
    )
    parser.add_argument(
        "--only", action="append", metavar="NAME", help="measure only this gateway (repeatable)"
    )
    return parser.parse_args()


def lacking() -> str | None:
    missing = peers.missing(peers.FOR_BENCH)
    return f"needs {', '.join(missing)}" if missing else None


def run(candidates: list[Candidate], plan: Plan, results: Results) -> None:
    """Interleaved rounds: what disturbs the machine for a while disturbs all alike."""
    for number in range(plan.rounds):
        for candidate in candidates:
            for client in candidate.clients:
                measure(candidate, client, 1, traffic(plan), results, f"round {number + 1}")
        if number < plan.scale_rounds:
            for candidate in candidates:
                if candidate.scale:
                    measure(candidate, "current", DEVICES, scale(plan), results, "scale")


def measure(
    candidate: Candidate,
    client: Implementation,
    devices: int,
    steps: list[Step],
    results: Results,
    title: str,
) -> None:
    """One session; a step that fails is noted, and the others go on."""
    if command(client, "") is None:
        results.errors.append(f"no {client} WireGuard client on this machine")
        return
    started, label = time.monotonic(), f"{title}: {candidate.name}, {client} client"
    try:
        with Session(candidate, client, devices) as session:
            for step in steps:
                try:
                    results.add(candidate.name, client, step(session))
                except Exception as error:
                    results.errors.append(f"{label}: {error!r:.300}")
    except Exception as error:
        notes = "\n".join(getattr(error, "__notes__", []))
        results.errors.append(f"{label}: {error!r:.300} {notes}")
    print(f"{label} ({time.monotonic() - started:.0f} s)", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
