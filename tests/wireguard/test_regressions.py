"""What other implementations have had to repair, each as a test."""

from __future__ import annotations

import os

import pytest

from lopower.endpoint import Endpoint
from lopower.wireguard import Drop, EndpointChanged, Interface
from lopower.wireguard.constants import REJECT_AFTER_MESSAGES
from lopower.wireguard.noise import StaticKey
from tests.wireguard.test_handshake import give, initiation, overload
from tests.wireguard.test_transport import sealed
from tests.wireguard.wire import LEFT, LEFT_INNER, RIGHT, RIGHT_INNER, Wire, key, packet, rows_of

ELSEWHERE = Endpoint("203.0.113.9", 4000)


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.connect()
    return wire


def test_indices_are_not_counted_up() -> None:
    interface = Interface(key(1), wall=lambda: 0.0, random=os.urandom)
    indices = {interface._core.new_index() for _ in range(64)}
    assert len(indices) == 64
    assert max(indices) - min(indices) > 2**28


def test_no_roaming_on_a_cookie_reply() -> None:
    wire = Wire()
    overload(wire.right, wire.now)
    [reply] = give(wire, initiation(wire))
    wire.left.take(reply, ELSEWHERE, wire.now)
    assert wire.left.peer.endpoint == RIGHT
    assert wire.left.peer.rx_bytes == 64  # although it was good


def test_no_keepalive_ping_pong(wire: Wire) -> None:
    for side in (wire.left, wire.right):
        side.interface.send(side.peer, packet(LEFT_INNER, RIGHT_INNER), wire.now)
    wire.settle()
    wire.run(100)
    assert len(wire.sent) <= 4


def test_the_keepalive_counts_from_the_first_data(wire: Wire) -> None:
    """Data that keeps coming does not put the keepalive off for ever."""
    for _ in range(11):
        wire.send(wire.left)
        wire.settle()
        wire.run(1)
    assert [len(d) for side, d in wire.sent if side is wire.right] == [32]


def test_a_preshared_key_reaches_the_next_handshake(wire: Wire) -> None:
    wire.left.interface.set_preshared_key(wire.left.peer, key(9))
    wire.run(125)
    wire.send(wire.left)
    wire.run(30)
    assert wire.left.peer.drops[Drop.NOT_AUTHENTIC] >= 1
    wire.right.interface.set_preshared_key(wire.right.peer, key(9))
    wire.run(60)
    assert wire.left.peer.current is not None
    assert wire.left.peer.current.created_at > 1125


def test_the_limit_of_messages_holds_when_receiving(wire: Wire) -> None:
    inner = packet(LEFT_INNER, RIGHT_INNER)
    last = [sealed(wire, inner, REJECT_AFTER_MESSAGES - 3 + i) for i in range(6)]
    assert wire.right.interface.receive_burst(rows_of(last), LEFT, wire.now) is None
    assert sum(wire.right.interface.receive(d, LEFT, wire.now) is not None for d in last) == 3
    assert wire.right.peer.drops == {Drop.EXPIRED: 3}


@pytest.mark.parametrize("size", [1452, 9000, 65507, 65535, 70000])
def test_oversized_datagrams(wire: Wire, size: int) -> None:
    assert wire.right.interface.receive(b"\4\0\0\0" + bytes(size - 4), LEFT, wire.now) is None
    inner = packet(LEFT_INNER, RIGHT_INNER, min(size, 65535))
    wire.right.take(sealed(wire, inner), LEFT, wire.now)
    assert wire.right.packets == [inner]


def test_nested_allowed_ips(wire: Wire) -> None:
    right = wire.right.interface
    site = right.add_peer(
        StaticKey(key(31)).public, allowed_ips=["10.90.0.0/16", "10.90.0.0/24", "10.90.0.0/28"]
    )
    right.set_allowed_ips(site, ["10.90.0.0/16"])
    assert right.peer_for(bytes((10, 90, 0, 5))) is site
    assert right.peer_for(bytes((10, 90, 0, 1))) is wire.right.peer
    right.set_allowed_ips(wire.right.peer, [])
    assert right.peer_for(bytes((10, 90, 0, 1))) is site
    right.remove_peer(site)
    assert right.peer_for(bytes((10, 90, 0, 5))) is None


def test_a_cookie_is_for_one_port() -> None:
    wire = Wire()
    overload(wire.right, wire.now)
    [reply] = give(wire, initiation(wire))
    wire.left.take(reply, RIGHT, wire.now)
    wire.now += 0.5
    wire.left.peer.handshake_sent_at = 0.0
    second = initiation(wire)
    assert len(give(wire, second, Endpoint(LEFT.host, 1))[0]) == 64
    assert len(give(wire, second)[0]) == 92


def test_one_source_cannot_take_all(wire: Wire) -> None:
    overload(wire.right, wire.now)
    allow = wire.right.interface._handshakes._limiter.allow
    assert [allow(LEFT.source_prefix(), wire.now) for _ in range(7)] == [True] * 5 + [False] * 2
    assert allow(ELSEWHERE.source_prefix(), wire.now)


def test_retries_do_not_march_in_step() -> None:
    pauses = set()
    for seed in range(8):
        interface = Interface(key(seed + 40), wall=lambda: 0.0)
        peer = interface.add_peer(StaticKey(key(2)).public, endpoint=RIGHT)
        interface.initiate(peer, 0.0)
        pauses.add(peer.retransmit_at)
    assert len(pauses) > 4
    assert all(5.0 <= pause <= 5.334 for pause in pauses)


def test_the_endpoint_moves_only_after_authentication(wire: Wire) -> None:
    bad = bytearray(sealed(wire, packet(LEFT_INNER, RIGHT_INNER)))
    bad[-1] ^= 1
    wire.right.take(bytes(bad), ELSEWHERE, wire.now)
    spoiled = bytearray(initiation(Wire()))
    spoiled[100] ^= 1
    wire.right.take(bytes(spoiled), ELSEWHERE, wire.now)
    assert wire.right.peer.endpoint == LEFT
    assert wire.right.saw(EndpointChanged) == 1


def test_the_inner_source_is_checked(wire: Wire) -> None:
    wire.right.take(sealed(wire, packet("10.90.0.77", RIGHT_INNER)), LEFT, wire.now)
    assert wire.right.packets == []
    assert wire.right.peer.drops == {Drop.SOURCE_NOT_ALLOWED: 1}


def test_a_flood_of_initiations_leaves_sessions_alone(wire: Wire) -> None:
    """A session in use survives whatever comes without a valid mac2."""
    for _ in range(3):
        overload(wire.right, wire.now)
        inner = wire.send(wire.left)
        wire.settle()
        assert wire.right.packets[-1] == inner
