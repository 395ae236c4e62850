"""What the cores cost, without a network: WireGuard and TCP in one process, packets by hand.

    python bench/cores.py                measure and print a table
    python bench/cores.py --json         the same as JSON
    python bench/cores.py --save         the same into bench/results/cores.json
    python bench/cores.py --check        fail if a ratio is worse than the saved one

Two pairs of an Interface and a Stack stand face to face: one is the gateway, and only its time is
counted, and one plays the device. Ratios of the burst path to the packet-by-packet reference are
what `--check` looks at: unlike times, they are much the same on every machine.

Bytes copied per byte carried, counted in the code. Every path has the cipher's own pass.
  Received, as bursts: (1) the cipher writes clear text into the rows of its matrix, in place of a
  copy; (2) TCP takes the payload column of the matrix into one contiguous piece; (3) `read` joins
  pieces, if there are more than one. So 2, the cipher's included, when every burst is read.
  Received, one by one: (1) the cipher makes an object, (2) TCP copies the payload out of it,
  (3) `read` joins the payloads: 3.
  Sent, as bursts: (1) `recv_into` writes into the ring, in place of a copy; (2) the payload column
  is filled from the ring; (3) the cipher writes the sealed rows, which go to sendmsg as they are: 2
  after what `recv_into` wrote. One by one: packets are built from pieces, padded, sealed, and
  prefixed with a header: 5.
What a wake-up allocates at most, measured with tracemalloc, per byte that it carries, stands beside
it: received, that is (2); sent, the 64 KB in which numpy widens words to sum them, and no payload.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import sys
import tracemalloc
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from lopower.bursts import RowBuffer, Rows
from lopower.endpoint import Endpoint
from lopower.netstack.stack import Stack, TcpConnection, TcpRequest
from lopower.netstack.tcp import burst as tcp_burst
from lopower.netstack.udp import build
from lopower.wireguard import Interface, Peer, SealedBurst

RESULTS = Path(__file__).parent / "results" / "cores.json"
GATEWAY_ENDPOINT = Endpoint("192.0.2.1", 51820)
DEVICE_ENDPOINT = Endpoint("192.0.2.2", 51820)
GATEWAY_ADDRESS = bytes([10, 90, 0, 1])
DEVICE_ADDRESS = bytes([10, 90, 0, 2])
REMOTE_ADDRESS = bytes([198, 51, 100, 7])

BYTES = 24 << 20  # carried per measurement: some tenths of a second each
WARM_UP = 2 << 20  # bytes, until windows and buffers have their size
TOLERANCE = 0.7  # a saved ratio may shrink by this factor: shared machines are noisy

RATIOS = ("receive.speedup", "send.speedup")

Sealed = list[tuple[bytes | memoryview, int]]  # what goes over the wire: buffer, segment size


class Side:
    """An Interface and a Stack, with a clock that counts only what is done in `working`."""

    def __init__(self, random: Callable[[int], bytes]) -> None:
        self.interface = Interface(os.urandom(32), wall=self.wall, random=random)
        self.stack = Stack([GATEWAY_ADDRESS], random=random)
        self.seconds = 0.0
        self.packets = 0
        self.one_by_one = False
        self.peer: Peer
        self.sealed: Sealed = []
        self._wire = memoryview(bytearray(1 << 20))
        self._wire_at = 0
        self._rows = RowBuffer(1 << 16)
        self._now = 0.0

    def wall(self) -> float:
        return 1_700_000_000.0 + self._now

    def know(self, other: Side, endpoint: Endpoint) -> None:
        self.peer = self.interface.add_peer(
            other.interface.public_key, allowed_ips=["0.0.0.0/0"], endpoint=endpoint
        )

    @contextmanager
    def working(self) -> Iterator[None]:
        start = perf_counter()
        yield
        self.seconds += perf_counter() - start

    # the sink of the stack

    def packet(self, link: Hashable, packet: bytes) -> None:
        self.interface.send(self.peer, packet, self._now)

    def burst(self, link: Hashable, packets: Rows) -> None:
        sealed = None
        if not self.one_by_one:
            sealed = self.interface.send_burst(self.peer, packets, self._now)
        if sealed is None:
            for view in packets.views:
                self.interface.send(self.peer, view, self._now)
            return
        self._collect()
        with paused(self):
            self._transmit(sealed)

    def _transmit(self, sealed: SealedBurst) -> None:
        """Copy what is only valid until the next call, as the kernel does."""
        start, end = self._wire_at, self._wire_at + len(sealed.buffer)
        self._wire[start:end] = sealed.buffer
        self.sealed.append((self._wire[start:end], sealed.segment_size))
        self._wire_at = end

    def flush(self, now: float) -> Sealed:
        """Everything that goes to the other side, as the kernel would get it."""
        self._now = now
        self._wire_at = 0
        with self.working():
            self.stack.flush(now, self)
            self._collect()
        sealed, self.sealed = self.sealed, []
        return sealed

    def _collect(self) -> None:
        self.sealed += [
            (datagram, len(datagram)) for _, datagram in self.interface.datagrams_to_send()
        ]

    def receive(self, sealed: Sealed, source: Endpoint, now: float) -> None:
        """Datagrams as they come from GRO: equal sizes in one buffer."""
        self._now = now
        for buffer, size in sealed:
            count = len(buffer) // size
            rows = self._rows.rows(count, size)
            rows.matrix[:] = np.frombuffer(buffer, np.uint8).reshape(count, size)
            self.packets += count
            with self.working():
                self._receive(rows, source, now)

    def _receive(self, rows: Rows, source: Endpoint, now: float) -> None:
        opened = None if self.one_by_one else self.interface.receive_burst(rows, source, now)
        if opened is None:
            for view in rows.views:
                inner = self.interface.receive(view, source, now)
                if inner is not None:
                    self.stack.receive(inner[0], inner[1], now)
            return
        peer, packets = opened
        if not self.stack.receive_burst(peer, packets, now):
            for row in packets:
                self.stack.receive(peer, row.data, now)


@contextmanager
def paused(side: Side) -> Iterator[None]:
    """Time of the benchmark's own."""
    start = perf_counter()
    yield
    side.seconds -= perf_counter() - start


class Pair:
    """A device and the gateway with a session between them, and virtual time."""

    def __init__(self) -> None:
        self.now = 1.0
        self.device, self.gateway = Side(os.urandom), Side(os.urandom)
        self.device.know(self.gateway, GATEWAY_ENDPOINT)
        self.gateway.know(self.device, DEVICE_ENDPOINT)
        self.device.interface.initiate(self.device.peer, self.now)
        self.exchange()

    def exchange(self, rounds: int = 4) -> None:
        """Let both say what they have to say."""
        for _ in range(rounds):
            self.now += 0.0005
            self.gateway.receive(self.device.flush(self.now), DEVICE_ENDPOINT, self.now)
            self.device.receive(self.gateway.flush(self.now), GATEWAY_ENDPOINT, self.now)

    def timers(self) -> None:
        for side in (self.device, self.gateway):
            for core in (side.stack, side.interface):
                deadline = core.deadline()
                if deadline is not None and deadline <= self.now:
                    core.handle_timer(self.now)

    def connect(self, port: int = 40000) -> tuple[TcpConnection, TcpConnection]:
        """A connection from the device to somewhere; the device's end and the gateway's."""
        ends = (DEVICE_ADDRESS, port), (REMOTE_ADDRESS, 443)
        ours = self.device.stack.connect(self.device.peer, *ends, self.now)
        self.exchange(1)
        (request,) = self.gateway.stack.events()
        assert isinstance(request, TcpRequest)
        with self.gateway.working():
            request.connection.accept(self.now)
        self.exchange(2)
        assert ours.established
        return ours, request.connection


def carry(sender: Side, receiver: Side, pair: Pair, ends: Any, total: int) -> None:
    """`total` bytes from one end to the other, acknowledged and read."""
    source, sink = ends
    done = 0
    to_receiver = DEVICE_ENDPOINT if receiver is pair.gateway else GATEWAY_ENDPOINT
    to_sender = GATEWAY_ENDPOINT if receiver is pair.gateway else DEVICE_ENDPOINT
    stalls = 0
    while done < total:
        pair.now += 0.0005
        with sender.working():
            space = source.reserve(1 << 16)
        if len(space):
            space[:1] = b"x"
        with sender.working():
            source.commit(len(space), pair.now)
        receiver.receive(sender.flush(pair.now), to_receiver, pair.now)
        with receiver.working():
            got = len(sink.read(1 << 22))
        sender.receive(receiver.flush(pair.now), to_sender, pair.now)
        pair.timers()
        done += got
        stalls = 0 if got else stalls + 1
        assert stalls < 5000, "the flow has come to a standstill"


def measure_stream(direction: str, one_by_one: bool) -> dict[str, float]:
    """Microseconds of the gateway per packet of a bulk flow, acknowledgements included."""
    pair = Pair()
    device_end, gateway_end = pair.connect()
    gateway = pair.gateway
    if direction == "receive":
        sides, ends = (pair.device, gateway), (device_end, gateway_end)
    else:
        sides, ends = (gateway, pair.device), (gateway_end, device_end)
    if one_by_one:
        go_one_by_one(gateway)
    carry(*sides, pair, ends, WARM_UP)
    best = float("inf")
    for _ in range(3):
        gateway.seconds, counted = 0.0, sides[1].packets
        carry(*sides, pair, ends, BYTES // 3)
        best = min(best, gateway.seconds / (sides[1].packets - counted))
    allocated = measure_allocation(pair, sides, ends)
    return {
        "us_per_packet": round(best * 1e6, 3),
        "packets_per_second": round(1 / best),
        "mbit_per_second": round(1240 * 8 / best / 1e6),
        "allocated_per_byte": allocated,
    }


def measure_allocation(pair: Pair, sides: tuple[Side, Side], ends: Any) -> float:
    """The most that is allocated at one time during a wake-up, per byte that it carries."""
    peaks: list[float] = []
    gateway = pair.gateway
    inner_working = gateway.working

    @contextmanager
    def traced() -> Iterator[None]:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        yield
        peaks.append(tracemalloc.get_traced_memory()[1] - before)

    gateway.working = traced  # type: ignore[method-assign]
    tracemalloc.start()
    try:
        carry(*sides, pair, ends, 1 << 20)
        peaks.clear()
        counted = 0
        while counted < 1 << 20:
            carry(*sides, pair, ends, 1 << 16)
            counted += 1 << 16
        largest = max(peaks)
    finally:
        tracemalloc.stop()
        gateway.working = inner_working  # type: ignore[method-assign]
    return round(largest / (1 << 16), 2)


def go_one_by_one(side: Side) -> None:
    """Let WireGuard and TCP of this side work packet by packet."""
    side.one_by_one = True
    smallest, flush = tcp_burst.SMALLEST_BURST, side.stack.flush

    def flush_one_by_one(now: float, sink: Any) -> None:
        tcp_burst.SMALLEST_BURST = 1 << 30
        try:
            flush(now, sink)
        finally:
            tcp_burst.SMALLEST_BURST = smallest

    side.stack.flush = flush_one_by_one  # type: ignore[method-assign]


def measure_handshakes() -> dict[str, float]:
    """What an initiation costs that is answered, and one whose mac1 is wrong."""
    pair = Pair()
    device, gateway = pair.device, pair.gateway
    gateway.seconds, count = 0.0, 200
    for _ in range(count):
        pair.now += 6.0
        device._now = gateway._now = pair.now
        device.interface.initiate(device.peer, pair.now)
        gateway.receive(device.flush(pair.now), DEVICE_ENDPOINT, pair.now)
        device.receive(gateway.flush(pair.now), GATEWAY_ENDPOINT, pair.now)
    answered = gateway.seconds / count
    forged = [b"\x01\0\0\0" + os.urandom(144) for _ in range(1000)]
    gateway.seconds = 0.0
    with gateway.working():
        for datagram in forged:
            gateway.interface.receive(memoryview(datagram), DEVICE_ENDPOINT, pair.now)
    rejected = gateway.seconds / len(forged)
    return {
        "handshakes_per_second": round(1 / answered),
        "us_per_handshake": round(answered * 1e6, 1),
        "mac1_rejects_per_second": round(1 / rejected),
        "us_per_mac1_reject": round(rejected * 1e6, 2),
    }


def measure_memory() -> dict[str, float]:
    """Bytes of the gateway per peer that was only added, and per idle connection."""
    gc.collect()
    peers = 500
    interface = Interface(os.urandom(32), wall=lambda: 0.0)
    keys = [Interface(os.urandom(32), wall=lambda: 0.0).public_key for _ in range(peers)]
    tracemalloc.start()
    before = tracemalloc.get_traced_memory()[0]
    for number, key in enumerate(keys):
        prefix = f"10.91.{number >> 8}.{number & 255}/32"
        interface.add_peer(key, allowed_ips=[prefix], endpoint=DEVICE_ENDPOINT)
    per_peer = (tracemalloc.get_traced_memory()[0] - before) / peers
    tracemalloc.stop()
    return {"bytes_per_peer": round(per_peer), "bytes_per_connection": connection_memory()}


def connection_memory() -> int:
    """Established and idle, the gateway's end."""
    pair, count = Pair(), 200
    kept = [pair.connect(30000)]
    gateway, total = pair.gateway, 0
    tracemalloc.start()

    @contextmanager
    def traced() -> Iterator[None]:
        nonlocal total
        before = tracemalloc.get_traced_memory()[0]
        yield
        total += tracemalloc.get_traced_memory()[0] - before

    gateway.working = traced  # type: ignore[method-assign]
    kept += [pair.connect(30001 + number) for number in range(count)]
    tracemalloc.stop()
    return round(total / count)


def measure_udp() -> dict[str, float]:
    """A small datagram in and one out, such as a DNS query and its answer: the netstack alone."""
    stack = Stack([GATEWAY_ADDRESS])
    client, server = (DEVICE_ADDRESS, 5353), (GATEWAY_ADDRESS, 53)
    packet = memoryview(build(client, server, b"q" * 45))
    answer, count = b"a" * 61, 4000
    receive_best = send_best = float("inf")
    for _ in range(10):
        start = perf_counter()
        for _ in range(count):
            stack.receive("device", packet, 0.0)
        receive_best = min(receive_best, perf_counter() - start)
        stack.events()
        start = perf_counter()
        for _ in range(count):
            stack.send_udp("device", server, client, answer, 0.0, fragment=False)
        send_best = min(send_best, perf_counter() - start)
        stack.drop_link("device")
    return {
        "us_per_datagram_received": round(receive_best / count * 1e6, 3),
        "us_per_datagram_sent": round(send_best / count * 1e6, 3),
    }


def machine() -> dict[str, Any]:
    model = platform.processor()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": platform.system(),
    }


def measure() -> dict[str, Any]:
    """Everything."""
    results: dict[str, Any] = {"machine": machine()}
    for direction in ("receive", "send"):
        burst = measure_stream(direction, one_by_one=False)
        single = measure_stream(direction, one_by_one=True)
        speedup = round(single["us_per_packet"] / burst["us_per_packet"], 2)
        results[direction] = {"burst": burst, "reference": single, "speedup": speedup}
    results["copies"] = {
        "receive": {"burst": 2, "reference": 3},
        "send": {"burst": 2, "reference": 5},
    }
    results["handshakes"] = measure_handshakes()
    results["udp"] = measure_udp()
    results["memory"] = measure_memory()
    return results


def table(results: dict[str, Any]) -> str:
    """The results for people."""
    host = results["machine"]
    lines = [f"{host['cpu']}, Python {host['python']}, numpy {host['numpy']}", ""]
    head = f"{'':28}{'µs/packet':>10}{'packets/s':>12}{'Mbit/s':>8}{'copies':>8}{'allocated':>11}"
    lines.append(head)
    names = {"receive": "decrypt to stream", "send": "stream to encrypt"}
    for direction, name in names.items():
        for kind in ("burst", "reference"):
            row = results[direction][kind]
            copies = results["copies"][direction][kind]
            lines.append(
                f"{name + ', ' + kind:28}{row['us_per_packet']:>10}{row['packets_per_second']:>12,}"
                f"{row['mbit_per_second']:>8,}{copies:>8}{row['allocated_per_byte']:>11}"
            )
        lines.append(f"{'':28}{results[direction]['speedup']:>9}x")
    for group in ("handshakes", "udp", "memory"):
        for name, value in results[group].items():
            lines.append(f"{name.replace('_', ' '):28}{value:>10,}")
    return "\n".join(lines)


def look_up(results: dict[str, Any], path: str) -> float:
    value: Any = results
    for part in path.split("."):
        value = value[part]
    return float(value)


def check(results: dict[str, Any], saved: dict[str, Any]) -> list[str]:
    """The ratios that have become worse than noise explains."""
    failures = []
    for path in RATIOS:
        now, before = look_up(results, path), look_up(saved, path)
        if now < before * TOLERANCE:
            failures.append(f"{path}: {now}, saved {before}")
    return failures


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--save", action="store_true")
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    results = measure()
    print(json.dumps(results, indent=2) if arguments.json else table(results))
    if arguments.save:
        RESULTS.parent.mkdir(exist_ok=True)
        RESULTS.write_text(json.dumps(results, indent=2) + "\n")
    if arguments.check:
        failures = check(results, json.loads(RESULTS.read_text()))
        print("\n".join(failures) or "no ratio is worse than the saved one", file=sys.stderr)
        return 1 if failures else 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
