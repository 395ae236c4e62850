"""A burst taken in one step does what its packets one by one would have done."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.ip import parse
from lopower.netstack.tcp.state import TAKES_DATA
from lopower.netstack.tcp.wire import ACK, FIN, PSH, RST, SYN, make_path, reverse
from tests.netstack.tcp.pair import LINK
from tests.netstack.tcp.script import HANDSHAKE, Script, pattern


def prepared(written: int, state: str, v6: bool) -> Script:
    """A connection with `written` bytes in flight, in some state; the same every time."""
    t = Script(v6=v6)
    t(HANDSHAKE if not v6 else HANDSHAKE.replace("mss 1240", "mss 1220"))
    if written:
        t.do_write(str(written))
    if state == "closing":
        t.do_close()
    elif state == "half-closed":
        t("< F. 1:1(0) ack 1 win 512")
    elif state == "hole":
        t("< . 5001:6001(1000) ack 1 win 512")
    elif state == "losing":
        t("< . 1:1(0) ack 1 win 512 <sack 5000:9000>")
    elif state == "orphan":
        t.do_release()
    t.flush()
    t.sent.clear()
    t.now += 0.01
    return t


Changes = dict[int, dict[str, int]]


def rows(
    t: Script, acks: list[int], payload: int, changes: dict[int, dict[str, int]]
) -> list[bytes]:
    """The next segments of the flow, with changes to some of them."""
    packets = []
    path = make_path(reverse(t.key))
    receiver = t.tcp.receiver
    at = receiver.nxt
    for i, ack in enumerate(acks):
        change = changes.get(i, {})
        sequence = at + i * payload + change.get("sequence", 0)
        flags = change.get("flags", ACK)
        window = change.get("window", 512)
        data = pattern(sequence - t.peer_initial, payload)
        acknowledgment = t.tcp.sender.una + ack
        packets.append(path.build(sequence, acknowledgment, flags, window, b"", data))
    return packets


def observe(t: Script) -> dict[str, Any]:
    """All that can be seen from outside, and the books that matter later."""
    ready = [connection is t.tcp for connection in t.table.take_ready()]
    tcp, sender, receiver = t.tcp, t.tcp.sender, t.tcp.receiver
    t.table.flush(t.now, t.wire)
    items = [list(i) if isinstance(i, list) else [i] for i in t.wire.items]
    packets = [packet for item in items for packet in item]
    t.wire.items.clear()
    return {
        "ready": ready,
        "packets": packets,
        "data": tcp.read(),
        "state": tcp.state,
        "error": tcp.error,
        "una": sender.una,
        "nxt": sender.nxt,
        "window": sender.window,
        "phase": sender.phase,
        "in flight": sender.flight.in_flight,
        "received": receiver.nxt,
        "edge": receiver.edge,
        "queue": receiver.queue is None,
        "acks": tcp._acks,
        "rto": sender.rto_at < inf,
    }


CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "sequence": st.sampled_from([-1000, -1, 1, 1240, 100_000]),
        "flags": st.sampled_from([ACK | PSH, ACK | FIN, ACK | RST, SYN, ACK | 0x20, ACK | 0x40, 0]),
        "window": st.sampled_from([0, 100, 511, 513]),
    },
)


@settings(max_examples=400, deadline=None)
@given(
    count=st.integers(1, 20),
    payload=st.sampled_from([0, 0, 1, 100, 1240]),
    written=st.sampled_from([0, 5000, 12400]),
    state=st.sampled_from(["open"] * 6 + ["closing", "half-closed", "hole", "losing", "orphan"]),
    steps=st.lists(st.sampled_from([0, 0, 1, 1240, 1240, 2480]), min_size=20, max_size=20),
    changes=st.dictionaries(st.integers(0, 19), CHANGES, max_size=1),
    v6=st.booleans(),
)
def test_a_burst_is_its_packets(
    count: int,
    payload: int,
    written: int,
    state: str,
    steps: list[int],
    changes: Changes,
    v6: bool,
) -> None:
    whole, single = (prepared(written, state, v6) for _ in range(2))
    acks = np.cumsum(steps[:count]).tolist()
    packets = rows(whole, acks, payload, changes)
    size = len(packets[0])
    matrix = np.frombuffer(b"".join(p.ljust(-(-size // 16) * 16, b"\0") for p in packets), np.uint8)
    matrix = matrix.reshape(count, -1)
    before = observe_books(whole)
    header = 40 if v6 else 20
    taken = whole.table.receive_burst(LINK, whole.key, matrix, header, size, whole.now)
    if not taken:
        assert observe_books(whole) == before
        return
    for packet in packets:
        ip = parse(packet)
        assert ip is not None
        single.table.receive(LINK, memoryview(packet), ip, single.now)
    seen, expected = observe(whole), observe(single)
    # New data that is let out depends on cwnd, which rounds differently.
    cwnd = [t.tcp.sender.congestion.cwnd for t in (whole, single)]
    assert abs(cwnd[0] - cwnd[1]) <= 1240
    assert seen == expected


def observe_books(t: Script) -> tuple[Any, ...]:
    sender, receiver = t.tcp.sender, t.tcp.receiver
    return (
        (t.tcp.state, t.tcp.awake, t.tcp.notified, t.tcp._acks, sender.una, sender.window),
        (sender.flight.in_flight, receiver.nxt, receiver.readable, receiver.edge),
    )


def burst(t: Script, acks: list[int], payload: int, **changes: Any) -> bool:
    packets = rows(t, acks, payload, changes.get("changes", {}))
    matrix = np.frombuffer(b"".join(packets), np.uint8).reshape(len(packets), -1)
    return t.table.receive_burst(LINK, t.key, matrix, 20, len(packets[0]), t.now)


def test_the_ordinary_burst_is_taken() -> None:
    t = prepared(0, "open", False)
    assert burst(t, [0] * 48, 1240)
    seen = observe(t)
    assert len(seen["packets"]) == 1
    assert seen["data"] == pattern(1, 48 * 1240)
    assert seen["ready"] == [True]
    t = prepared(12400, "open", False)
    assert burst(t, [1240, 2480, 3720, 12400], 0)
    assert t.tcp.sender.una == t.tcp.sender.nxt
    assert not t.tcp.receiver.readable


def test_what_is_not_taken() -> None:
    assert not burst(prepared(0, "open", False), [0] * 2, 1240)  # too few
    assert not burst(prepared(0, "open", False), [0] * 60, 1240)  # beyond the window
    assert not burst(prepared(0, "open", False), [0] * 8, 0)  # nothing new
    assert not burst(prepared(12400, "open", False), [1240, 1240, 2480], 0)  # a duplicate
    assert not burst(prepared(12400, "open", False), [2480, 1240, 3720], 0)  # backwards
    assert not burst(prepared(12400, "open", False), [2480, 3720, 99999], 0)  # never sent
    assert not burst(prepared(12400, "open", False), [2480, 1240, 1240], 100)
    assert not burst(prepared(12400, "losing", False), [1240, 2480, 3720], 0)
    for state in ("hole", "half-closed", "orphan"):
        assert not burst(prepared(0, state, False), [0] * 8, 100)
    for change in ({"sequence": 1}, {"flags": ACK | FIN}, {"flags": ACK | 0x20}):
        assert not burst(prepared(0, "open", False), [0] * 8, 100, changes={5: change})


def test_a_burst_for_a_request_is_not_taken() -> None:
    t = Script()("< S 0:0(0) win 1000")
    matrix = np.zeros((8, 1280), np.uint8)
    assert not t.table.receive_burst(LINK, t.key, matrix, 20, 1280, t.now)
    assert not t.table.receive_burst(LINK, t.key, matrix, 20, 40, t.now)


def test_acknowledgements_of_a_half_closed_device_are_taken() -> None:
    t = prepared(12400, "half-closed", False)
    assert t.tcp.state not in TAKES_DATA
    assert burst(t, [1240, 2480, 12400], 0)


def test_the_last_acknowledgement_of_a_burst_may_end_the_connection() -> None:
    t = prepared(11000, "open", False)
    t("< F. 1:1(0) ack 1 win 512\nclose")
    t.flush()
    assert burst(t, [1240, 2480, 11000, 11001], 0)
    t("gone")


@pytest.mark.parametrize("wrong", [(24, "sequence"), (33, "flags")])
def test_a_malformed_matrix_is_left_alone(wrong: tuple[int, str]) -> None:
    t = prepared(0, "open", False)
    matrix = np.zeros((8, 48), np.uint8)
    assert not t.table.receive_burst(LINK, t.key, matrix, 20, 30, t.now)  # shorter than a header
    assert not t.table.receive_burst(LINK, t.key, matrix, 20, 48, t.now)
