"""What is measured in a round, in which order, and for how long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench import measure
from bench.measure import Numbers
from bench.session import Session


@dataclass(frozen=True)
class Plan:
    """How long and how often; times in seconds."""

    rounds: int
    scale_rounds: int
    transfer: int
    sprint: int
    dns: int
    connections: int
    datagrams: int


QUICK = Plan(1, 1, transfer=2, sprint=2, dns=1, connections=500, datagrams=2000)
FULL = Plan(5, 3, transfer=5, sprint=3, dns=3, connections=2000, datagrams=5000)
DEVICES = 1000

Step = Callable[[Session], Numbers]


def transfers(
    plan: Plan, suffix: str = "", streams: tuple[int, ...] = measure.STREAMS
) -> list[Step]:
    """Both directions with each number of streams."""

    def step(direction: str, count: int) -> Step:
        def run(session: Session) -> Numbers:
            found = measure.throughput(session, direction, count, plan.transfer)
            return {f"{name}{suffix}": value for name, value in found.items()}

        return run

    return [step(direction, count) for count in streams for direction in ("down", "up")]


def traffic(plan: Plan) -> list[Step]:
    """One device: memory, throughput, latency, connections, names."""
    return [
        lambda session: measure.memory(session, "idle"),
        *transfers(plan),
        lambda session: measure.latency(session, plan.connections, plan.datagrams),
        lambda session: measure.sprint(session, plan.sprint),
        lambda session: measure.dns(session, plan.dns),
        lambda session: measure.memory(session, "after"),
    ]


def scale(plan: Plan) -> list[Step]:
    """Many devices and many idle flows."""
    return [
        lambda session: measure.memory(session, f"with {DEVICES} devices"),
        measure.handshakes,
        measure.wrong_mac1,
        measure.idle_flows,
        *transfers(plan, " at scale", streams=(1,)),
        lambda session: measure.memory(session, "at scale"),
    ]
