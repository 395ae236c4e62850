"""The measurements. Each takes a session and returns named numbers."""

from __future__ import annotations

import json
import re
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path

from bench.initiations import Keys, with_wrong_mac1
from bench.session import PORT, Session
from bench.storm import Storm
from tests.lab.client import Profile
from tests.lab.network import GATEWAY, TARGET

Numbers = dict[str, float]

GB, MB, KB = 1e9, 1e6, 1e3
STREAMS = (1, 8)
IDLE_FLOWS = 5_000  # of each kind
WRONG = 50_000
STORMS = 3


def throughput(session: Session, direction: str, streams: int, seconds: float) -> Numbers:
    """Mbit/s as the receiver sees it, and the gateway's CPU seconds per GB."""
    server = session.target.popen("iperf3", "-s", "-1", stdout=-3, stderr=-3)
    command = ["iperf3", "-c", TARGET, "-J", "-t", str(seconds), "-P", str(streams)]
    if direction == "down":
        command.append("-R")
    before = session.cpu()
    output = {}
    for _ in range(50):
        result = session.namespace.run(*command, check=False, timeout=seconds + 10)
        output = json.loads(result.stdout)
        if "refused" not in output.get("error", ""):
            break
        time.sleep(0.05)
    if "error" in output:
        server.kill()
        raise RuntimeError(output["error"])
    cpu, received = session.cpu() - before, output["end"]["sum_received"]
    name = f"{direction}{streams}"
    return {
        f"{name} Mbit/s": received["bits_per_second"] / 1e6,
        f"{name} CPU s/GB": cpu / (received["bytes"] / GB),
    }


def latency(session: Session, connections: int, datagrams: int) -> Numbers:
    """New TCP connections and UDP round trips, one after the other."""
    connect = session.load("connect", TARGET, str(connections))
    udp = session.load("udp", TARGET, str(datagrams))
    return {
        "connect p50 µs": connect["p50"],
        "connect p99 µs": connect["p99"],
        "udp p50 µs": udp["p50"],
        "udp p99 µs": udp["p99"],
        "udp lost": udp["lost"],
    }


def sprint(session: Session, seconds: float) -> Numbers:
    """New connections per second with 16 at once."""
    result = session.load("sprint", TARGET, str(seconds))
    return {"connections/s": result["per_second"], "connections failed": result["failed"]}


def dns(session: Session, seconds: float) -> Numbers:
    """Answers from the cache per second, and their median time, with 16 questions under way."""
    servers = [address for address in session.client.profile.dns if ":" not in address]
    if not servers:
        return {}
    with tempfile.NamedTemporaryFile("w") as questions:
        questions.write("".join(f"host{number}.example A\n" for number in range(50)))
        questions.flush()
        command = ["dnsperf", "-s", servers[0], "-d", questions.name, "-q", "16", "-W"]
        session.namespace.run(*command, "-n", "1")  # fills the cache
        total = session.namespace.run(*command, "-l", str(seconds)).stdout
        verbose = session.namespace.run(*command, "-l", "1", "-v").stdout
    times = [float(line.split()[-1]) for line in verbose.splitlines() if line.startswith("> NOERR")]
    rate = re.search(r"Queries per second:\s+([\d.]+)", total)
    lost = re.search(r"Queries lost:\s+(\d+)", total)
    assert rate
    assert lost
    return {
        "dns answers/s": float(rate[1]),
        "dns p50 µs": statistics.median(times) * 1e6,
        "dns lost": float(lost[1]),
    }


def handshakes(session: Session) -> Numbers:
    """All devices but the first reconnect at once, three times, each from an address of its own."""
    profiles = [session.contract.profile(number) for number in range(2, session.devices + 1)]
    keys = [Keys.of(Profile(path.read_text()).values) for path in profiles]
    answered, cookies, took, cpu = 0, 0, 0.0, 0.0
    with Storm(session.namespace, session.network.gateway, keys) as storm:
        for _ in range(STORMS):
            storm.prepare()
            before = session.cpu()
            took += storm.run()
            cpu += session.cpu() - before
            answered += storm.answered
            cookies += storm.cookies
            time.sleep(1)
    return {
        "handshakes/s": answered / took,
        "handshake CPU µs": cpu / answered * 1e6,
        "handshakes unanswered": STORMS * len(keys) - answered,
        "handshakes asked for a cookie": cookies,
    }


def wrong_mac1(session: Session) -> Numbers:
    """What a datagram costs that nobody with the gateway's public key has sent."""
    datagram = with_wrong_mac1()
    lost_before, before = dropped(session), session.cpu()
    with session.namespace.udp(GATEWAY, PORT) as sender:
        for number in range(WRONG):
            with suppress(OSError):
                sender.send(datagram)
            if number % 256 == 255:
                time.sleep(0.002)
    time.sleep(0.3)
    counted = WRONG - (dropped(session) - lost_before)
    return {"wrong mac1 CPU µs": (session.cpu() - before) / counted * 1e6}


def dropped(session: Session) -> int:
    """Datagrams the gateway's host had no room for."""
    with session.network.gateway.inside():
        lines = Path("/proc/thread-self/net/snmp").read_text().splitlines()
        lines6 = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Udp:"))
    six = sum(int(line.split()[1]) for line in lines6 if line.startswith("Udp6RcvbufErrors"))
    return int(values[names.index("RcvbufErrors")]) + six


def idle_flows(session: Session) -> Numbers:
    """Memory per idle flow, and throughput while all of them are open."""
    numbers: Numbers = {}
    for kind in ("tcp", "udp"):
        before = session.resident()
        _, held = session.hold(kind, IDLE_FLOWS)
        numbers[f"idle {kind} flows"] = held["held"]
        if held["held"]:
            numbers[f"idle {kind} flow KB"] = (session.resident() - before) / held["held"] / KB
    return numbers


def memory(session: Session, when: str) -> Numbers:
    return {f"memory {when} MB": session.resident() / MB}
