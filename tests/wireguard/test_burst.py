"""Bursts: the same as packet by packet, or nothing at all."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.bursts import Rows
from lopower.endpoint import Endpoint
from lopower.wireguard import Drop, Interface, Peer
from lopower.wireguard.burst import CAPACITY, MAX_ROWS, MIN_RECEIVED, MIN_SENT
from lopower.wireguard.constants import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from lopower.wireguard.messages import NONCE, TRANSPORT_HEADER
from tests.wireguard.wire import (
    LEFT,
    LEFT_INNER,
    LEFT_INNER6,
    RIGHT_INNER,
    RIGHT_INNER6,
    Wire,
    packet,
    rows_of,
)

TIMERS = (
    "retransmit_at",
    "keepalive_at",
    "keepalive_again",
    "new_handshake_at",
    "expires_at",
    "zero_at",
    "traversed_at",
    "received_at",
    "last_handshake",
    "renewing",
    "attempting_since",
    "handshake_sent_at",
)


def state(interface: Interface, peer: Peer) -> dict[str, object]:
    """All that a datagram may change, as far as it can be compared."""
    result: dict[str, object] = {name: getattr(peer, name) for name in TIMERS}
    for name in ("previous", "current", "next"):
        keypair = getattr(peer, name)
        if keypair is not None:
            window = keypair.window
            result[name] = (keypair.local_index, keypair.send_counter, window.next)
            result[f"{name} missing"] = window._missing and window._missing << window._base
    result["endpoint"] = peer.endpoint
    result["bytes"] = (peer.rx_bytes, peer.tx_bytes)
    result["drops"] = copy.copy(peer.drops), copy.copy(interface.drops)
    result["staged"] = list(peer.staged)
    result["deadline"] = interface.deadline()
    return result


@dataclass
class Scene:
    """What is done to a fresh pair of interfaces before and with a burst."""

    count: int = 8
    size: int = 64
    v6: bool = False
    role: str = "current"  # of the receiving side: current, next, previous or initiator
    age: float = 1.0
    skip: list[int] = field(default_factory=list)  # counters left out before each row
    moved: bool = False
    staged: int = 0
    warm: int = 0  # packets received before


def prepared(scene: Scene) -> tuple[Wire, list[bytes]]:
    """A session, and a burst of the left side to the right one that has not arrived."""
    wire = Wire()
    if scene.role == "initiator":
        wire.right.interface.set_endpoint(wire.right.peer, LEFT)
        wire.right.interface.initiate(wire.right.peer, wire.now)
        wire.settle()
    elif scene.role == "next":
        wire.left.interface.initiate(wire.left.peer, wire.now)
        wire.deliver(wire.collect())
        [(_, response)] = wire.right.interface.datagrams_to_send()
        wire.left.take(response, wire.right.endpoint, wire.now)
        wire.left.interface.datagrams_to_send()
    else:
        wire.connect()
    for i in range(scene.warm):
        wire.send(wire.left, fill=i)
        wire.deliver(wire.collect())
    burst = sealed(wire, scene)
    if scene.role == "previous":
        wire.now += 6
        wire.connect()
    for i in range(scene.staged):
        if scene.role == "next":
            wire.send(wire.right, 60 + i)
    wire.now += scene.age
    wire.right.interface.datagrams_to_send()
    wire.right.gather()
    return wire, burst


def sealed(wire: Wire, scene: Scene) -> list[bytes]:
    keypair = wire.left.peer.current
    assert keypair is not None
    counter, burst = keypair.send_counter, []
    addresses = (LEFT_INNER6, RIGHT_INNER6) if scene.v6 else (LEFT_INNER, RIGHT_INNER)
    for i in range(scene.count):
        counter += scene.skip[i] if i < len(scene.skip) else 0
        inner = packet(*addresses, scene.size, i)
        inner += bytes(-len(inner) % 16)
        header = TRANSPORT_HEADER.pack(4, keypair.remote_index, counter)
        burst.append(header + keypair.sender().encrypt(NONCE.pack(counter), inner, None))
        counter += 1
    return burst


def source_of(scene: Scene) -> Endpoint:
    return Endpoint("203.0.113.5", 555) if scene.moved else LEFT


def one_by_one(wire: Wire, burst: list[bytes], source: Endpoint) -> list[bytes]:
    receive, found = wire.right.interface.receive, []
    for datagram in burst:
        opened = receive(datagram, source, wire.now)
        if opened is not None:
            assert opened[0] is wire.right.peer
            found.append(bytes(opened[1]))
    return found


def at_once(wire: Wire, burst: list[bytes], source: Endpoint) -> list[bytes] | None:
    opened = wire.right.interface.receive_burst(rows_of(burst), source, wire.now)
    if opened is None:
        return None
    assert opened[0] is wire.right.peer
    return [row.tobytes() for row in opened[1]]


def names(wire: Wire) -> list[str]:
    wire.right.gather()
    return [type(event).__name__ for event in wire.right.log]


scenes = st.builds(
    Scene,
    count=st.integers(MIN_RECEIVED, 20),
    size=st.integers(40, 200),
    v6=st.booleans(),
    role=st.sampled_from(["current", "next", "previous", "initiator"]),
    age=st.sampled_from([0.0, 1.0, 100.0, 166.0, 179.0]),
    skip=st.lists(st.sampled_from([0, 0, 0, 1, 7, 9000]), max_size=20),
    moved=st.booleans(),
    staged=st.integers(0, 3),
    warm=st.integers(0, 2),
)


@settings(max_examples=120, deadline=None)
@given(scenes)
def test_a_burst_is_the_same_as_its_packets(scene: Scene) -> None:
    (single, burst), (together, same) = prepared(scene), prepared(scene)
    assert burst == same
    source = source_of(scene)
    expected, got = one_by_one(single, burst, source), at_once(together, burst, source)
    if scene.role == "previous" and scene.age > 173:
        assert got is None  # too old
        assert expected == []
        return
    assert got is not None
    assert len(expected) == scene.count
    assert [row[: scene.size] for row in got] == expected
    assert state(together.right.interface, together.right.peer) == state(
        single.right.interface, single.right.peer
    )
    assert names(together) == names(single)
    sizes = [len(d) for _, d in single.right.interface.datagrams_to_send()]
    assert [len(d) for _, d in together.right.interface.datagrams_to_send()] == sizes
    # What was taken is taken, either way.
    assert one_by_one(together, burst, source) == one_by_one(single, burst, source) == []


DAMAGES = [
    *("tag", "body", "type", "index", "counter", "replay", "order", "twice", "short"),
    *("source", "all sources", "version", "all versions", "length", "keepalive", "expired"),
]


def damaged(wire: Wire, scene: Scene, burst: list[bytes], damage: str, at: int) -> list[bytes]:
    """A burst about which something is in doubt."""
    at %= len(burst)
    row = bytearray(burst[at])
    if damage == "tag":
        row[-1] ^= 1
    elif damage == "body":
        row[20] ^= 1
    elif damage == "type":
        row[0] ^= 1
    elif damage == "index":
        row[4] ^= 1
    elif damage == "counter":
        row[8:16] = REJECT_AFTER_MESSAGES.to_bytes(8, "little")
    elif damage == "twice":
        return [*burst[:-1], burst[0]]
    elif damage == "order":
        return burst[::-1]
    elif damage == "short":
        return [datagram[:32] for datagram in burst]
    elif damage == "keepalive":
        return sealed_inner(wire, [b""] * len(burst))
    elif damage == "replay":
        assert wire.right.interface.receive(burst[at], LEFT, wire.now) is not None
    elif damage == "expired":
        wire.now += 200
    elif damage in ("source", "all sources", "version", "all versions", "length"):
        inner = [bytearray(packet(LEFT_INNER, RIGHT_INNER, 64)) for _ in burst]
        for bad in inner if damage.startswith("all") else [inner[at]]:
            if "source" in damage:
                bad[15] ^= 2
            elif "version" in damage:
                bad[0] = 0x75
            else:
                bad[2:4] = (65).to_bytes(2)
        return sealed_inner(wire, [bytes(i) for i in inner])
    burst[at] = bytes(row)
    return burst


def sealed_inner(wire: Wire, inner: list[bytes]) -> list[bytes]:
    keypair = wire.left.peer.current
    assert keypair is not None
    keypair.send_counter += 1000
    for packet_ in inner:
        wire.left.interface._core.sent(wire.left.peer, 0, wire.now)
        counter = keypair.send_counter
        keypair.send_counter += 1
        header = TRANSPORT_HEADER.pack(4, keypair.remote_index, counter)
        body = keypair.sender().encrypt(NONCE.pack(counter), packet_, None)
        wire.left.interface._core.outgoing.append((wire.right.endpoint, header + body))
    return [d for _, d in wire.left.interface.datagrams_to_send()]


@pytest.mark.parametrize("damage", DAMAGES)
@settings(max_examples=10, deadline=None)
@given(scene=scenes, at=st.integers(0, 19))
def test_what_is_in_doubt_changes_nothing(damage: str, scene: Scene, at: int) -> None:
    if scene.role == "previous":
        scene.age = 1.0
    wire, burst = prepared(scene)
    burst = damaged(wire, scene, burst, damage, at)
    wire.right.interface.datagrams_to_send()
    before, source = state(wire.right.interface, wire.right.peer), source_of(scene)
    log = len(names(wire))
    assert at_once(wire, burst, source) is None
    assert state(wire.right.interface, wire.right.peer) == before
    assert len(names(wire)) == log
    assert wire.right.interface.datagrams_to_send() == []
    # And packet by packet it is what it always is.
    one_by_one(wire, burst, source)


@pytest.mark.parametrize("lengths", [[64, 63, 60, 64], [49, 64, 50, 52]])
@pytest.mark.parametrize("v6", [False, True])
def test_different_lengths_under_the_same_padding(lengths: list[int], v6: bool) -> None:
    wire, _ = prepared(Scene())
    addresses = (LEFT_INNER6, RIGHT_INNER6) if v6 else (LEFT_INNER, RIGHT_INNER)
    inner = [packet(*addresses, length) for length in lengths]
    burst = sealed_inner(wire, [i + bytes(64 - len(i)) for i in inner])
    got = at_once(wire, burst, LEFT)
    assert got is not None
    assert [g[: len(i)] for g, i in zip(got, inner, strict=True)] == inner


def test_rows_may_be_strided() -> None:
    wire, burst = prepared(Scene(count=6))
    memory = np.zeros((6, 2048), np.uint8)
    size = len(burst[0])
    for row, datagram in zip(memory, burst, strict=True):
        row[:size] = np.frombuffer(datagram, np.uint8)
    views = [memoryview(row.data)[:size] for row in memory]
    opened = wire.right.interface.receive_burst(Rows(memory[:, :size], views), LEFT, wire.now)
    assert opened is not None
    assert len(opened[1]) == 6


def test_too_few_and_too_many_rows() -> None:
    wire, burst = prepared(Scene(count=MAX_ROWS + 1))
    assert at_once(wire, burst[: MIN_RECEIVED - 1], LEFT) is None
    assert at_once(wire, burst, LEFT) is None
    assert at_once(wire, burst[:MAX_ROWS], LEFT) is not None


def test_more_than_the_buffer_holds() -> None:
    wire, burst = prepared(Scene(count=120, size=1408))
    assert at_once(wire, burst, LEFT) is None
    assert at_once(wire, burst[:40], LEFT) is not None


def test_an_unknown_session() -> None:
    wire, burst = prepared(Scene())
    wire.right.interface.remove_peer(wire.right.peer)
    assert wire.right.interface.receive_burst(rows_of(burst), LEFT, wire.now) is None


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(MIN_SENT, 40),
    blocks=st.integers(2, 80),
    age=st.sampled_from([0.0, 119.0, 121.0, 179.0]),
)
def test_a_sent_burst_is_the_same_as_its_packets(count: int, blocks: int, age: float) -> None:
    size = 16 * blocks
    wires = [Wire(), Wire()]
    for wire in wires:
        wire.connect()
        wire.now += age
    inner = [packet(LEFT_INNER, RIGHT_INNER, size, i) for i in range(count)]
    single, together = wires
    for i in inner:
        single.left.interface.send(single.left.peer, i, single.now)
    expected = single.left.interface.datagrams_to_send()
    left = together.left
    burst = left.interface.send_burst(left.peer, rows_of(inner), together.now)
    queued = left.interface.datagrams_to_send()
    if count * (size + 32) > CAPACITY:
        assert burst is None
        return
    assert burst is not None
    data = [d for _, d in expected if d[0] == 4]
    assert bytes(burst.buffer) == b"".join(data)
    assert (burst.endpoint, burst.segment_size) == (together.right.endpoint, size + 32)
    assert queued == [(e, d) for e, d in expected if d[0] != 4]
    assert state(left.interface, left.peer) == state(single.left.interface, single.left.peer)
    for number in range(count):
        start = number * burst.segment_size
        datagram = bytes(burst.buffer[start : start + burst.segment_size])
        together.right.take(datagram, LEFT, together.now)
    assert together.right.packets == inner


def test_bursts_that_cannot_be_sent() -> None:
    wire = Wire()
    rows = rows_of([packet(LEFT_INNER, RIGHT_INNER, 64)] * 8)
    left = wire.left
    send = left.interface.send_burst
    assert send(left.peer, rows, wire.now) is None  # no session
    wire.connect()
    assert send(left.peer, rows.head(MIN_SENT - 1), wire.now) is None
    assert send(left.peer, rows, wire.now + 180) is None
    assert left.peer.current is not None
    left.peer.current.send_counter = REKEY_AFTER_MESSAGES - 7
    assert send(left.peer, rows, wire.now) is None
    left.peer.current.send_counter = 0
    left.peer.endpoint = None
    assert send(left.peer, rows, wire.now) is None
    left.peer.endpoint = wire.right.endpoint
    large = rows_of([packet(LEFT_INNER, RIGHT_INNER, 1280)] * 50)
    assert send(left.peer, large, wire.now) is None
    assert left.interface.datagrams_to_send() == []


def test_a_burst_goes_to_the_other_side_as_a_burst() -> None:
    wire = Wire()
    wire.connect()
    rows = rows_of([packet(LEFT_INNER, RIGHT_INNER, 1280, i) for i in range(40)])
    for _ in range(3):
        sent = wire.left.interface.send_burst(wire.left.peer, rows, wire.now)
        assert sent is not None
        size = sent.segment_size
        datagrams = [bytes(sent.buffer[i * size : (i + 1) * size]) for i in range(40)]
        opened = wire.right.interface.receive_burst(rows_of(datagrams), LEFT, wire.now)
        assert opened is not None
        assert (opened[1] == rows.matrix).all()
    assert wire.right.peer.drops == {}
    assert wire.right.peer.rx_bytes == wire.left.peer.tx_bytes
    assert Drop.REPLAY not in wire.right.interface.drops
