"""The timers of section 6, on a virtual clock."""

from __future__ import annotations

from itertools import pairwise

import pytest

from lopower.wireguard import HandshakeCompleted, Interface, SessionExpired
from lopower.wireguard.constants import (
    KEEPALIVE_TIMEOUT,
    NEW_HANDSHAKE_TIMEOUT,
    RECEIVE_REKEY_AFTER_TIME,
    REKEY_AFTER_TIME,
    REKEY_JITTER,
    REKEY_TIMEOUT,
)
from lopower.wireguard.noise import StaticKey
from tests.wireguard.wire import LEFT, RIGHT, Wire, chance, key


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.connect()
    return wire


def times_of(wire: Wire, kind: int, seconds: float, step: float = 0.05) -> list[float]:
    """When datagrams of a kind are sent, from now on."""
    start, found = wire.now, []
    while wire.now < start + seconds:
        before = len(wire.sent)
        wire.run(step)
        found += [wire.now - start for _, d in wire.sent[before:] if d[0] == kind]
    return found


def test_initiations_are_repeated_with_jitter() -> None:
    wire = Wire()
    wire.fate = lambda datagram: 0
    wire.send(wire.left)
    times = times_of(wire, 1, 200)
    gaps = [b - a for a, b in pairwise(times)]
    assert 16 <= len(times) <= 18
    assert times[-1] < 90
    assert all(REKEY_TIMEOUT - 0.06 <= gap <= REKEY_TIMEOUT + REKEY_JITTER + 0.06 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.1


def test_each_attempt_has_its_own_index_and_ephemeral_key() -> None:
    wire = Wire()
    wire.fate = lambda datagram: 0
    wire.send(wire.left)
    wire.run(60)
    sent = [d for _, d in wire.sent]
    assert len({d[4:8] for d in sent}) == len(sent)
    assert len({d[8:40] for d in sent}) == len(sent)
    assert len(wire.left.interface._core.pending) == 1


def test_no_handshake_while_it_is_idle(wire: Wire) -> None:
    wire.run(600)
    assert wire.sent == []


def test_the_initiator_renews_when_it_sends(wire: Wire) -> None:
    wire.run(REKEY_AFTER_TIME - 1)
    wire.send(wire.left)
    wire.settle()
    assert 1 not in wire.kinds()
    wire.run(1.5)
    wire.send(wire.left)
    wire.settle()
    assert wire.kinds().count(1) == 1
    assert wire.left.saw(HandshakeCompleted) == 2


def test_the_responder_does_not_renew(wire: Wire) -> None:
    wire.now += 150
    wire.send(wire.right)
    wire.settle()
    assert wire.kinds() == [4]


def test_an_initiator_that_only_receives_renews_once(wire: Wire) -> None:
    wire.now += RECEIVE_REKEY_AFTER_TIME - 0.5
    wire.send(wire.right)
    wire.settle()
    assert wire.kinds() == [4]
    wire.now += 0.5
    wire.fate = lambda datagram: int(datagram[0] == 4)  # the initiation is lost
    wire.send(wire.right)
    wire.send(wire.right)
    wire.settle()
    assert wire.kinds() == [4, 4, 4, 1]
    wire.fate = lambda datagram: 1
    wire.run(6)
    assert wire.left.saw(HandshakeCompleted) == 2
    assert not wire.left.peer.renewing


def test_the_responder_only_receiving_does_not_renew(wire: Wire) -> None:
    wire.now += 170
    wire.left.peer.handshake_sent_at = wire.now  # the left side may not renew either
    wire.send(wire.left)
    wire.settle()
    assert wire.kinds() == [4]


def test_a_passive_keepalive_after_data(wire: Wire) -> None:
    wire.send(wire.left)
    wire.settle()
    [at] = times_of(wire, 4, 60)
    assert KEEPALIVE_TIMEOUT - 0.06 <= at <= KEEPALIVE_TIMEOUT + 0.06
    assert len(wire.sent[-1][1]) == 32
    assert wire.right.peer.tx_bytes == 92 + 32


def test_no_keepalive_when_something_else_was_sent(wire: Wire) -> None:
    wire.send(wire.left)
    wire.settle()
    wire.run(9)
    wire.send(wire.right)
    wire.settle()
    wire.sent.clear()
    [at] = times_of(wire, 4, 60)  # the left side's, for what it received
    assert at > 9


def test_another_keepalive_for_what_came_meanwhile(wire: Wire) -> None:
    wire.send(wire.left)
    wire.settle()
    wire.run(5)
    wire.send(wire.left)
    wire.settle()
    assert len(times_of(wire, 4, 60)) == 2


def test_keepalives_are_not_answered(wire: Wire) -> None:
    wire.left.interface.set_persistent_keepalive(wire.left.peer, 25.0)
    wire.run(110)
    sides = {id(side) for side, _ in wire.sent}
    assert sides == {id(wire.left)}


def test_persistent_keepalive_begins_at_once() -> None:
    wire = Wire(keepalive=25.0)
    assert wire.left.interface.deadline() == 0.0
    wire.run(1)
    assert wire.left.saw(HandshakeCompleted) == 1


def test_persistent_keepalive_only_when_idle() -> None:
    wire = Wire(keepalive=25.0)
    wire.run(1)
    wire.sent.clear()
    for _ in range(4):
        wire.run(9)
        wire.send(wire.left)
        wire.settle()
        wire.send(wire.right)
        wire.settle()
    assert all(len(d) > 32 for _, d in wire.sent)
    wire.sent.clear()
    times = times_of(wire, 4, 80)
    # The left side's passive keepalive at 10 s, then its persistent ones.
    assert [round(t) for t in times] == [10, 35, 60]


def test_persistent_keepalive_goes_on_for_ever() -> None:
    wire = Wire(keepalive=25.0)
    wire.fate = lambda datagram: 0
    wire.run(600)
    late = [d for _, d in wire.sent]
    assert len(late) > 60
    wire.fate = lambda datagram: 1
    wire.run(30)
    assert wire.left.peer.current is not None


def test_persistent_keepalive_can_be_turned_off_and_on(wire: Wire) -> None:
    left = wire.left
    left.interface.set_persistent_keepalive(left.peer, 20.0)
    wire.run(41)
    assert len(wire.sent) == 2
    left.interface.set_persistent_keepalive(left.peer, 0.0)
    wire.run(100)
    assert len(wire.sent) == 2


def test_without_an_endpoint_persistent_keepalive_waits() -> None:
    interface = Interface(key(1), wall=lambda: 0.0)
    interface.add_peer(StaticKey(key(2)).public, persistent_keepalive=25.0)
    interface.handle_timer(100.0)
    assert interface.datagrams_to_send() == []
    assert interface.deadline() == 125.0


def test_data_without_an_answer_starts_a_handshake(wire: Wire) -> None:
    wire.fate = lambda datagram: 0
    wire.send(wire.left)
    wire.settle()
    times = times_of(wire, 1, 17)
    assert len(times) == 1
    assert NEW_HANDSHAKE_TIMEOUT - 0.06 <= times[0] <= NEW_HANDSHAKE_TIMEOUT + REKEY_JITTER + 0.06


def test_the_responder_does_so_too(wire: Wire) -> None:
    wire.fate = lambda datagram: 0
    wire.send(wire.right)
    wire.settle()
    assert len(times_of(wire, 1, 17)) == 1
    assert wire.sent[-1][0] is wire.right


def test_any_answer_is_enough(wire: Wire) -> None:
    wire.send(wire.left)
    wire.settle()
    wire.run(60)  # the passive keepalive of the right side is the answer
    assert 1 not in wire.kinds()


def test_keepalives_expect_no_answer(wire: Wire) -> None:
    wire.left.interface.set_persistent_keepalive(wire.left.peer, 25.0)
    wire.fate = lambda datagram: 0
    wire.run(60)
    assert 1 not in wire.kinds()


def test_keys_are_forgotten(wire: Wire) -> None:
    wire.run(181)
    assert wire.left.saw(SessionExpired) == wire.right.saw(SessionExpired) == 1
    assert wire.left.peer.current is not None
    wire.run(358)
    assert wire.left.peer.current is not None
    wire.run(2)
    for side in (wire.left, wire.right):
        peer = side.peer
        assert (peer.previous, peer.current, peer.next) == (None, None, None)
        assert side.interface._core.sessions == {}
        assert side.interface.deadline() is None


def test_the_previous_key_is_forgotten_when_it_is_of_no_use(wire: Wire) -> None:
    wire.now += 130
    wire.connect()
    wire.send(wire.left)
    wire.run(1)
    assert wire.right.peer.previous is not None
    wire.run(60)
    assert wire.right.peer.previous is None
    assert wire.left.peer.previous is None
    assert len(wire.right.interface._core.sessions) == 1


def test_a_session_in_use_never_expires(wire: Wire) -> None:
    for _ in range(120):
        wire.run(5)
        wire.send(wire.left)
        wire.settle()
        wire.send(wire.right)
        wire.settle()
    assert len(wire.left.packets) == len(wire.right.packets) == 120
    assert wire.left.saw(SessionExpired) == wire.right.saw(SessionExpired) == 0
    assert wire.left.saw(HandshakeCompleted) == 6  # the first, and one every two minutes


def test_data_after_a_lost_session_waits_for_the_retry(wire: Wire) -> None:
    """The responder has just answered, the session was never confirmed, and now it has data."""
    wire = Wire()
    wire.left.interface.initiate(wire.left.peer, wire.now)
    wire.deliver(wire.collect())
    wire.collect()  # the response is lost
    wire.left.interface.remove_peer(wire.left.peer)
    left = wire.left.interface.add_peer(wire.right.interface.public_key, allowed_ips=["0.0.0.0/0"])
    inner = wire.send(wire.right)
    wire.run(6)
    assert wire.left.packets == [inner]
    assert left.endpoint == RIGHT


def test_timers_of_many_peers_are_not_scanned() -> None:
    interface = Interface(key(1), wall=lambda: 0.0, random=chance(1))
    for i in range(300):
        interface.add_peer(
            StaticKey(key(100 + i)).public, endpoint=LEFT, persistent_keepalive=25.0 + i
        )
    interface.handle_timer(0.0)
    assert len(interface.datagrams_to_send()) == 300
    wakeups = interface._core.wakeups
    for second in range(1, 200):
        interface.handle_timer(float(second))
    interface.datagrams_to_send()
    assert len(wakeups) <= 2 * 300 + 64 + 1


def test_stale_wakeups_are_thrown_out(wire: Wire) -> None:
    wakeups = wire.left.interface._core.wakeups
    for _ in range(200):
        wire.send(wire.left)
        wire.settle()
        wire.run(11)
        wire.send(wire.right)
        wire.settle()
    assert len(wakeups) < 80
