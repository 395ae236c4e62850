"""Handshakes between two interfaces, and everything that must not become one."""

from __future__ import annotations

import pytest

from lopower.endpoint import Endpoint
from lopower.wireguard import (
    ClockWrong,
    Drop,
    EndpointChanged,
    HandshakeCompleted,
    Interface,
    UnknownPeer,
    WrongServerKey,
)
from lopower.wireguard.constants import LOAD_THRESHOLD
from lopower.wireguard.noise import StaticKey
from tests.wireguard.test_noise import SMALL_ORDER
from tests.wireguard.wire import LEFT, LEFT_INNER, RIGHT, WALL, Side, Wire, chance, key, packet


@pytest.fixture
def wire() -> Wire:
    return Wire()


def initiation(wire: Wire) -> bytes:
    """An initiation of the left side, not delivered."""
    wire.left.interface.initiate(wire.left.peer, wire.now)
    [(_, datagram)] = wire.collect()
    return datagram


def give(wire: Wire, datagram: bytes, source: Endpoint = LEFT) -> list[bytes]:
    """Hand a datagram to the right side: its answers."""
    wire.right.take(datagram, source, wire.now)
    return [answer for _, answer in wire.right.interface.datagrams_to_send()]


@pytest.mark.parametrize("preshared_key", [None, key(7)])
def test_both_roles(preshared_key: bytes | None) -> None:
    wire = Wire(preshared_key=preshared_key)
    inner = wire.send(wire.left)
    wire.settle()
    assert wire.right.packets == [inner]
    assert [len(d) for _, d in wire.sent] == [148, 92, 96]
    assert HandshakeCompleted(wire.left.peer, True, None) in wire.left.log
    [done] = [e for e in wire.right.log if isinstance(e, HandshakeCompleted)]
    assert not done.initiator
    assert done.clock_offset == pytest.approx(0.0, abs=0.02)
    assert wire.right.peer.endpoint == LEFT
    assert wire.left.peer.last_handshake == wire.right.peer.last_handshake == wire.now
    answer = wire.send(wire.right)
    wire.settle()
    assert wire.left.packets == [answer]


def test_the_gateway_can_begin(wire: Wire) -> None:
    wire.right.interface.set_endpoint(wire.right.peer, LEFT)
    wire.right.interface.initiate(wire.right.peer, wire.now)
    wire.settle()
    assert wire.kinds() == [1, 2, 4]  # the empty packet confirms
    assert wire.left.saw(HandshakeCompleted) == wire.right.saw(HandshakeCompleted) == 1


def test_exact_byte_counters(wire: Wire) -> None:
    wire.send(wire.left)
    wire.settle()
    assert wire.left.peer.tx_bytes == wire.right.peer.rx_bytes == 148 + 96
    assert wire.left.peer.rx_bytes == wire.right.peer.tx_bytes == 92
    assert wire.left.interface.tx_bytes == wire.right.interface.rx_bytes == 148 + 96


def test_different_preshared_keys_do_not_meet() -> None:
    wire = Wire(preshared_key=key(7))
    wire.right.interface.set_preshared_key(wire.right.peer, key(8))
    wire.left.interface.initiate(wire.left.peer, wire.now)
    wire.settle()
    assert wire.left.peer.drops == {Drop.NOT_AUTHENTIC: 1}
    assert wire.left.peer.current is None


def test_a_preshared_key_acts_at_the_next_handshake(wire: Wire) -> None:
    wire.connect()
    for side in (wire.left, wire.right):
        side.interface.set_preshared_key(side.peer, key(7))
    inner = wire.send(wire.left)
    wire.settle()
    assert wire.right.packets == [inner]  # the session goes on
    wire.now += 10
    wire.left.interface.initiate(wire.left.peer, wire.now)
    wire.settle()
    assert wire.left.saw(HandshakeCompleted) == 2
    wire.right.interface.set_preshared_key(wire.right.peer, None)
    wire.now += 10
    wire.left.interface.initiate(wire.left.peer, wire.now)
    wire.settle()
    assert wire.left.saw(HandshakeCompleted) == 2


def test_both_begin_at_once(wire: Wire) -> None:
    wire.right.interface.set_endpoint(wire.right.peer, LEFT)
    for side in (wire.left, wire.right):
        side.interface.initiate(side.peer, wire.now)
    wire.settle()
    for side, other in ((wire.left, wire.right), (wire.right, wire.left)):
        inner = wire.send(side)
        wire.settle()
        assert other.packets[-1] == inner


def test_a_new_private_key_ends_sessions(wire: Wire) -> None:
    wire.connect()
    left = wire.left.interface
    wire.right.interface.remove_peer(wire.right.peer)
    left.set_private_key(key(50))
    assert left.public_key == StaticKey(key(50)).public
    assert wire.left.peer.current is None
    wire.right.interface.add_peer(left.public_key, allowed_ips=[f"{LEFT_INNER}/32"])
    inner = wire.send(wire.left)
    wire.settle()
    assert wire.right.packets == [inner]
    with pytest.raises(ValueError, match="peer"):
        left.set_private_key(key(2))


def test_an_initiation_counts_once(wire: Wire) -> None:
    first = initiation(wire)
    assert len(give(wire, first)) == 1
    wire.now += 1
    assert give(wire, first) == []
    assert wire.right.peer.drops == {Drop.OLD_TIMESTAMP: 1}


def test_an_older_initiation_is_refused(wire: Wire) -> None:
    old = initiation(wire)
    wire.now += 6
    assert len(give(wire, initiation(wire))) == 1
    wire.now += 1
    assert give(wire, old) == []


def test_one_initiation_in_twenty_milliseconds(wire: Wire) -> None:
    first = initiation(wire)
    wire.now += 6
    second = initiation(wire)
    assert len(give(wire, first)) == 1
    wire.now += 0.019
    assert give(wire, second) == []
    assert wire.right.peer.drops == {Drop.FLOOD: 1}
    wire.now += 0.002
    assert len(give(wire, second)) == 1


def test_whatever_is_changed_in_an_initiation_it_is_not_answered(wire: Wire) -> None:
    good = initiation(wire)
    for position in range(len(good) - 16):
        bad = bytearray(good)
        bad[position] ^= 1
        assert give(wire, bytes(bad)) == []
    assert wire.right.peer.endpoint is None
    assert len(give(wire, good)) == 1


@pytest.mark.parametrize("size", [0, 1, 4, 31, 147, 149, 91, 93, 63, 65])
def test_lengths_are_exact(wire: Wire, size: int) -> None:
    good = initiation(wire)
    for kind in (good[:4], b"\2\0\0\0", b"\3\0\0\0"):
        body = (kind + good[4:] + bytes(8))[:size]
        assert give(wire, body) == []
    assert wire.right.interface.drops == {Drop.MALFORMED: 3}


@pytest.mark.parametrize("kind", [0, 5, 255, 0x0101, 0x01000001])
def test_reserved_bytes_are_zero(wire: Wire, kind: int) -> None:
    good = initiation(wire)
    assert give(wire, kind.to_bytes(4, "little") + good[4:]) == []
    assert wire.right.interface.drops == {Drop.MALFORMED: 1}


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_ephemeral_keys_of_small_order(wire: Wire, point: str) -> None:
    body = initiation(wire)[:116]
    body = body[:8] + bytes.fromhex(point) + body[40:]
    message = wire.left.peer.cookies.add_macs(body, wire.right.interface.public_key, wire.now)
    assert give(wire, message) == []
    assert wire.right.interface.drops == {Drop.NOT_AUTHENTIC: 1}


def test_a_stranger_gets_silence_and_is_reported(wire: Wire) -> None:
    wire.right.interface.remove_peer(wire.right.peer)
    for i in range(10):
        wire.now += 0.1
        stranger = Interface(key(60), wall=lambda: WALL, random=chance(i))
        peer = stranger.add_peer(wire.right.interface.public_key, endpoint=RIGHT)
        stranger.initiate(peer, wire.now)
        [(_, datagram)] = stranger.datagrams_to_send()
        assert give(wire, datagram) == []
    seen = [e for e in wire.right.log if isinstance(e, UnknownPeer)]
    assert seen[0] == UnknownPeer(StaticKey(key(60)).public, LEFT)
    assert 1 <= len(seen) <= 6
    assert wire.right.interface.drops == {Drop.UNKNOWN_PEER: 10}


def test_a_claim_to_be_somebody_is_not_reported(wire: Wire) -> None:
    """The static key is sealed with the ephemeral one only: it takes the rest to prove it."""
    wire.right.interface.remove_peer(wire.right.peer)
    wire.left.peer.static_static = key(99)
    assert give(wire, initiation(wire)) == []
    assert wire.right.saw(UnknownPeer) == 0
    assert wire.right.interface.drops[Drop.NOT_AUTHENTIC] == 1


def test_a_wrong_server_key_is_reported_now_and_then(wire: Wire) -> None:
    other = Interface(key(70), wall=lambda: WALL, random=chance(1))
    peer = other.add_peer(StaticKey(key(71)).public, endpoint=RIGHT)
    for i in range(12):
        other.initiate(peer, 10.0 * i)
        wire.now += 10
        [(_, datagram)] = other.datagrams_to_send()
        assert give(wire, datagram) == []
    wrong = [e for e in wire.right.log if isinstance(e, WrongServerKey)]
    assert wrong == [WrongServerKey(LEFT, count) for count in (3, 6, 12)]
    assert wire.right.interface.drops == {Drop.MAC1: 12}
    assert give(wire, b"\2\0\0\0" + bytes(88)) == []  # responses are not counted as such


def test_the_table_of_wrong_keys_is_bounded(wire: Wire) -> None:
    junk = b"\1\0\0\0" + bytes(144)
    for i in range(2000):
        wire.right.interface.receive(junk, Endpoint(f"10.0.{i >> 8}.{i & 255}", 1), wire.now)
    assert len(wire.right.interface._handshakes._wrong_key) == 256


def test_responses_to_nothing(wire: Wire) -> None:
    first = initiation(wire)
    [response] = give(wire, first)
    wire.now += 6
    second = initiation(wire)  # the first is forgotten
    wire.left.take(response, RIGHT, wire.now)
    assert wire.left.peer.current is None
    assert wire.left.interface.drops == {Drop.UNKNOWN_INDEX: 1}
    [response] = give(wire, second)
    wire.left.take(response, RIGHT, wire.now)
    current = wire.left.peer.current
    assert current is not None
    wire.left.take(response, RIGHT, wire.now)
    assert wire.left.peer.current is current


def test_a_changed_response_leaves_the_handshake_open(wire: Wire) -> None:
    [response] = give(wire, initiation(wire))
    bad = response[:30] + b"\0" + response[31:60]
    bad = wire.right.peer.cookies.add_macs(bad, wire.left.interface.public_key, wire.now)
    wire.left.take(bad, RIGHT, wire.now)
    assert wire.left.peer.current is None
    wire.left.take(response, RIGHT, wire.now)
    assert wire.left.peer.current is not None


def overload(side: Side, now: float) -> None:
    """Valid mac1 and nothing else, more than can be worked off."""
    stranger = Interface(key(80), wall=lambda: WALL, random=chance(1))
    peer = stranger.add_peer(side.interface.public_key, endpoint=RIGHT)
    stranger.initiate(peer, now)
    [(_, datagram)] = stranger.datagrams_to_send()
    bad = peer.cookies.add_macs(bytes(116), side.interface.public_key, now)
    bad = datagram[:4] + bad[4:]
    bad = peer.cookies.add_macs(bad[:116], side.interface.public_key, now)
    for _ in range(LOAD_THRESHOLD + 1):
        side.interface.receive(bad, LEFT, now)
    side.interface.datagrams_to_send()


def test_under_load_a_cookie_is_asked_for(wire: Wire) -> None:
    overload(wire.right, wire.now)
    [reply] = give(wire, initiation(wire))
    assert len(reply) == 64
    assert wire.right.peer.next is None
    wire.left.take(reply, Endpoint("203.0.113.9", 9), wire.now)
    assert wire.left.peer.endpoint == RIGHT  # a cookie reply moves nobody
    assert wire.left.saw(EndpointChanged) == 0
    assert wire.left.interface.datagrams_to_send() == []  # wait for the timer
    wire.run(5.4)
    assert wire.left.peer.current is not None


def test_under_load_a_cookie_is_good_and_limited(wire: Wire) -> None:
    overload(wire.right, wire.now)
    [reply] = give(wire, initiation(wire))
    wire.left.take(reply, RIGHT, wire.now)
    wire.left.peer.handshake_sent_at = 0.0
    wire.now += 0.5
    second = initiation(wire)
    assert second[-16:] != bytes(16)
    [again] = give(wire, second, Endpoint(LEFT.host, LEFT.port + 1))  # another port
    assert len(again) == 64
    [response] = give(wire, second)
    assert len(response) == 92
    for _ in range(4):
        give(wire, second)
    assert Drop.RATE_LIMITED not in wire.right.interface.drops
    give(wire, second)
    assert wire.right.interface.drops[Drop.RATE_LIMITED] == 1


def test_under_load_responses_need_a_cookie_too(wire: Wire) -> None:
    first = initiation(wire)
    [response] = give(wire, first)
    overload(wire.left, wire.now)
    wire.left.take(response, RIGHT, wire.now)
    assert wire.left.peer.current is None
    [(endpoint, reply)] = wire.left.interface.datagrams_to_send()
    assert endpoint == RIGHT
    assert len(reply) == 64
    assert give(wire, reply) == []
    assert wire.right.peer.rx_bytes == 148 + 64


def test_cookie_replies_to_nobody(wire: Wire) -> None:
    wire.connect()
    assert give(wire, b"\3\0\0\0" + bytes(60)) == []
    assert wire.right.interface.drops == {Drop.UNKNOWN_INDEX: 1}
    current = wire.right.peer.current
    assert current is not None
    forged = b"\3\0\0\0" + current.local_index.to_bytes(4, "little") + bytes(56)
    assert give(wire, forged) == []
    assert wire.right.peer.drops == {Drop.NOT_AUTHENTIC: 1}


def test_indices_are_random_and_unique(wire: Wire) -> None:
    draws = iter([bytes(4), bytes(4), b"\0\0\0\1"] + [bytes(4)] * 3 + [b"\0\0\0\2"])
    core = wire.left.interface._core
    random, core.random = core.random, lambda size: next(draws) if size == 4 else random(size)
    assert initiation(wire)[4:8] == bytes(4)
    core.sessions[1] = core.sessions.get(1)  # type: ignore[assignment]
    assert core.new_index() == 2


def test_initiations_within_five_seconds_are_one(wire: Wire) -> None:
    initiation(wire)
    wire.now += 4.9
    wire.left.interface.initiate(wire.left.peer, wire.now)
    assert wire.collect() == []


def test_our_timestamps_grow_although_our_clock_is_set_back(wire: Wire) -> None:
    assert len(give(wire, initiation(wire))) == 1
    wire.skew["left"] = -3600.0
    wire.now += 10
    assert len(give(wire, initiation(wire))) == 1


def test_a_clock_far_ahead_is_reported(wire: Wire) -> None:
    wire.skew["left"] = 7200.0
    wire.connect()
    [wrong] = [e for e in wire.right.log if isinstance(e, ClockWrong)]
    assert wrong.accepted
    assert wrong.offset == pytest.approx(7200, abs=1)
    [done] = [e for e in wire.right.log if isinstance(e, HandshakeCompleted)]
    assert done.clock_offset == wrong.offset


def restart(wire: Wire, skew: float) -> None:
    """The left side starts anew with its clock set to something else."""
    interface = Interface(key(1), wall=lambda: wire._wall("left"), random=chance(77))
    interface.add_peer(wire.right.interface.public_key, allowed_ips=["0.0.0.0/0"], endpoint=RIGHT)
    wire.left = Side(interface, LEFT)
    wire.skew["left"] = skew


def test_a_device_that_forgot_the_time_is_let_in(wire: Wire) -> None:
    wire.connect()
    wire.run(200)  # the session is over
    mark = wire.right.peer.last_timestamp
    restart(wire, -1e9)
    wire.send(wire.left)
    wire.run(12)
    assert wire.right.packets == []
    [wrong] = [e for e in wire.right.log if isinstance(e, ClockWrong)]
    assert not wrong.accepted
    assert wire.right.peer.last_timestamp == mark
    wire.run(12)
    assert len(wire.right.packets) == 1
    assert wire.right.peer.last_timestamp is not None
    assert mark is not None
    assert wire.right.peer.last_timestamp < mark


def test_forget_timestamp_lets_it_in_at_once(wire: Wire) -> None:
    wire.connect()
    wire.run(200)
    wire.right.interface.forget_timestamp(wire.right.peer)
    restart(wire, -1e9)
    wire.send(wire.left)
    wire.settle()
    assert len(wire.right.packets) == 1


def test_a_replayed_series_gets_a_response_and_nothing_else(wire: Wire) -> None:
    """Somebody has recorded old initiations and plays them from elsewhere."""
    recorded = []
    for _ in range(5):
        recorded.append(initiation(wire))
        wire.now += 6
    wire.connect()
    wire.run(300)
    mark, elsewhere = wire.right.peer.last_timestamp, Endpoint("203.0.113.9", 9)
    answers = []
    for datagram in recorded:
        answers += give(wire, datagram, elsewhere)
        wire.run(6)
    assert [len(a) for a in answers] == [92, 92]
    assert wire.right.peer.endpoint == LEFT
    assert wire.right.peer.last_timestamp == mark
    inner = wire.send(wire.left)  # and the device itself is heard as ever
    wire.settle()
    assert wire.right.packets[-1] == inner


def test_the_mark_can_be_kept(wire: Wire) -> None:
    wire.connect()
    mark = wire.right.peer.last_timestamp
    again = Interface(key(2), wall=lambda: WALL, random=chance(5))
    peer = again.add_peer(wire.left.interface.public_key, last_timestamp=mark)
    assert peer.last_timestamp == mark
    wire.right = Side(again, RIGHT)
    old = initiation(Wire())
    assert give(wire, old) == []
    assert peer.drops == {Drop.OLD_TIMESTAMP: 1}


def test_peers_that_cannot_be() -> None:
    interface = Interface(key(1), wall=lambda: WALL)
    public = StaticKey(key(2)).public
    peer = interface.add_peer(public)
    assert interface.peer(public) is peer
    assert interface.peers == [peer]
    for bad in (public, interface.public_key, b"short", *map(bytes.fromhex, SMALL_ORDER)):
        with pytest.raises(ValueError, match=r"key"):
            interface.add_peer(bad)
    with pytest.raises(ValueError, match="32 bytes"):
        interface.set_preshared_key(peer, b"short")
    with pytest.raises(ValueError, match=r"."):
        interface.add_peer(StaticKey(key(3)).public, allowed_ips=["nonsense"])
    assert interface.peers == [peer]


def test_a_removed_peer_is_gone(wire: Wire) -> None:
    wire.connect()
    right, peer = wire.right.interface, wire.right.peer
    right.remove_peer(peer)
    right.remove_peer(peer)
    assert right.peers == []
    assert right.peer_for(packet(LEFT_INNER, LEFT_INNER)[12:16]) is None
    wire.send(wire.left)
    wire.settle()
    assert wire.right.packets == []
    assert right.drops == {Drop.UNKNOWN_INDEX: 1}
    right.handle_timer(wire.now + 1000)
    assert right.datagrams_to_send() == []
