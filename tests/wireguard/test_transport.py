"""Data packet by packet: the reference for the bursts."""

from __future__ import annotations

import pytest

from lopower.endpoint import Endpoint
from lopower.wireguard import Drop, EndpointChanged, HandshakeGaveUp, Interface, Peer
from lopower.wireguard.constants import (
    MAX_STAGED_PACKETS,
    REJECT_AFTER_MESSAGES,
    REKEY_AFTER_MESSAGES,
)
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.messages import NONCE, TRANSPORT_HEADER
from tests.wireguard.wire import (
    LEFT,
    LEFT_INNER,
    LEFT_INNER6,
    RIGHT,
    RIGHT_INNER,
    RIGHT_INNER6,
    Wire,
    key,
    packet,
)


@pytest.fixture
def wire() -> Wire:
    wire = Wire()
    wire.connect()
    return wire


def current(peer: Peer) -> Keypair:
    assert peer.current is not None
    return peer.current


def sealed(wire: Wire, inner: bytes, counter: int | None = None) -> bytes:
    """What the left side would send, whatever is inside."""
    keypair = current(wire.left.peer)
    if counter is None:
        counter = keypair.send_counter
        keypair.send_counter += 1
    header = TRANSPORT_HEADER.pack(4, keypair.remote_index, counter)
    return header + keypair.sender().encrypt(NONCE.pack(counter), inner, None)


def give(wire: Wire, datagram: bytes, source: Endpoint = LEFT) -> bytes | None:
    opened = wire.right.interface.receive(datagram, source, wire.now)
    return bytes(opened[1]) if opened is not None else None


@pytest.mark.parametrize("size", [20, 21, 31, 32, 33, 60, 576, 1279, 1280, 1281, 1420])
@pytest.mark.parametrize("fill", [0, 0xFF])
def test_packets_of_any_size(wire: Wire, size: int, fill: int) -> None:
    inner = wire.send(wire.left, size, fill)
    [(_, datagram)] = wire.collect()
    padded = min(-(-size // 16) * 16, 1280) if size <= 1280 else size
    assert len(datagram) == 32 + padded
    assert give(wire, datagram) == inner


def test_ipv6(wire: Wire) -> None:
    inner = packet(LEFT_INNER6, RIGHT_INNER6, 77)
    wire.left.interface.send(wire.left.peer, inner, wire.now)
    wire.settle()
    assert wire.right.packets == [inner]


def test_packets_may_be_views(wire: Wire) -> None:
    inner = packet(LEFT_INNER, RIGHT_INNER, 61)
    wire.left.interface.send(wire.left.peer, memoryview(inner), wire.now)
    [(_, datagram)] = wire.collect()
    assert give(wire, memoryview(datagram)) == inner  # type: ignore[arg-type]


def test_padding_ends_at_the_mtu() -> None:
    wire = Wire(mtu=1420)
    wire.connect()
    for size, expected in ((1409, 1420), (1420, 1420), (1400, 1408), (1500, 1500)):
        wire.send(wire.left, size)
        [(_, datagram)] = wire.collect()
        assert len(datagram) == 32 + expected


def test_a_full_packet_of_linux_is_no_multiple_of_16(wire: Wire) -> None:
    inner = packet(LEFT_INNER, RIGHT_INNER, 1420)
    assert give(wire, sealed(wire, inner)) == inner


@pytest.mark.parametrize("size", range(32))
def test_too_short_for_anything(wire: Wire, size: int) -> None:
    assert give(wire, sealed(wire, b"")[:size]) is None
    assert wire.right.interface.drops == {Drop.MALFORMED: 1}


def test_unknown_index(wire: Wire) -> None:
    datagram = bytearray(sealed(wire, packet(LEFT_INNER, RIGHT_INNER)))
    datagram[4] ^= 1
    assert give(wire, bytes(datagram)) is None
    assert wire.right.interface.drops == {Drop.UNKNOWN_INDEX: 1}


def test_nothing_changed_passes(wire: Wire) -> None:
    good = sealed(wire, packet(LEFT_INNER, RIGHT_INNER))
    elsewhere = Endpoint("203.0.113.9", 9)
    for position in range(8, len(good)):
        bad = bytearray(good)
        bad[position] ^= 0x80
        assert give(wire, bytes(bad), elsewhere) is None
    assert wire.right.peer.endpoint == LEFT
    assert give(wire, good) is not None
    assert sum(wire.right.peer.drops.values()) == len(good) - 8


def test_each_counter_once_in_any_order(wire: Wire) -> None:
    datagrams = [sealed(wire, packet(LEFT_INNER, RIGHT_INNER, fill=i)) for i in range(6)]
    for i in (0, 3, 1, 5, 2, 4):
        assert give(wire, datagrams[i]) is not None
    assert [give(wire, datagram) for datagram in datagrams] == [None] * 6
    assert wire.right.peer.drops == {Drop.REPLAY: 6}


def test_the_last_counters(wire: Wire) -> None:
    """wireguard-go's replay cases 25 to 33."""
    inner, end = packet(LEFT_INNER, RIGHT_INNER), REJECT_AFTER_MESSAGES
    for counter, expected in [
        (end, False),
        (end - 1, True),
        (end, False),
        (end - 1, False),
        (end - 2, True),
        (end + 1, False),
        (end + 2, False),
        (end - 2, False),
        (end - 3, True),
        (0, False),
    ]:
        assert (give(wire, sealed(wire, inner, counter)) is not None) is expected


def test_no_message_after_the_last(wire: Wire) -> None:
    keypair = current(wire.left.peer)
    keypair.send_counter = REJECT_AFTER_MESSAGES - 1
    wire.now += 10  # past the limit of one handshake in five seconds
    wire.send(wire.left)
    assert [d[0] for _, d in wire.collect()] == [4, 1]  # the last one, and already renewing
    wire.send(wire.left)
    assert wire.collect() == []
    assert len(wire.left.peer.staged) == 1
    assert keypair.send_counter == REJECT_AFTER_MESSAGES


def test_renewed_after_many_messages(wire: Wire) -> None:
    wire.now += 10
    current(wire.left.peer).send_counter = REKEY_AFTER_MESSAGES - 1
    wire.send(wire.left)
    assert [d[0] for _, d in wire.collect()] == [4]
    wire.send(wire.left)
    assert [d[0] for _, d in wire.collect()] == [4, 1]


@pytest.mark.parametrize(
    "inner",
    [
        b"\x45",
        bytes(16),
        b"\x45" + bytes(31),  # says it is empty
        packet(LEFT_INNER, RIGHT_INNER, 32)[:16],
        packet(LEFT_INNER, RIGHT_INNER, 100)[:96],  # longer than what came
        packet(LEFT_INNER, RIGHT_INNER, 60)[:2] + b"\0\x13" + bytes(60),  # shorter than a header
        packet(LEFT_INNER6, RIGHT_INNER6, 48)[:32],
        packet(LEFT_INNER6, RIGHT_INNER6, 80)[:64],
        b"\x55" + packet(LEFT_INNER, RIGHT_INNER)[1:],
        b"\x05" + packet(LEFT_INNER, RIGHT_INNER)[1:],
    ],
)
def test_inner_packets_that_are_none(wire: Wire, inner: bytes) -> None:
    assert give(wire, sealed(wire, inner)) is None
    assert wire.right.peer.drops == {Drop.INNER_MALFORMED: 1}


@pytest.mark.parametrize(
    "inner",
    [
        packet("10.90.0.9", RIGHT_INNER),
        packet("10.90.0.3", RIGHT_INNER),  # the address of another peer
        packet("fd00::9", RIGHT_INNER6),
    ],
)
def test_a_source_that_is_not_the_peers(wire: Wire, inner: bytes) -> None:
    wire.right.interface.add_peer(
        Interface(key(30), wall=float).public_key, allowed_ips=["10.90.0.3"]
    )
    before = wire.right.peer.rx_bytes
    assert give(wire, sealed(wire, inner)) is None
    assert wire.right.peer.drops == {Drop.SOURCE_NOT_ALLOWED: 1}
    assert wire.right.peer.rx_bytes == before
    # The check follows changes of the prefixes at once.
    wire.right.interface.set_allowed_ips(wire.right.peer, ["0.0.0.0/0", "::/0", "10.90.0.3/32"])
    assert give(wire, sealed(wire, inner)) == inner


def test_routing_goes_by_longest_prefix(wire: Wire) -> None:
    right = wire.right.interface
    site = right.add_peer(Interface(key(30), wall=float).public_key, allowed_ips=["10.90.0.0/16"])
    assert right.peer_for(bytes((10, 90, 0, 1))) is wire.right.peer
    assert right.peer_for(bytes((10, 90, 0, 2))) is site
    assert right.peer_for(bytes((10, 91, 0, 2))) is None
    assert right.allowed_ips(site) == ["10.90.0.0/16"]


def test_roaming(wire: Wire) -> None:
    moved = Endpoint("2001:db8::7", 700)
    assert give(wire, sealed(wire, packet(LEFT_INNER, RIGHT_INNER)), moved) is not None
    assert wire.right.peer.endpoint == moved
    wire.send(wire.right)
    assert [e for e, _ in wire.right.interface.datagrams_to_send()] == [moved]
    wire.right.gather()
    assert wire.right.log[-1] == EndpointChanged(wire.right.peer, moved, LEFT)
    # A keepalive moves too, a replay does not.
    replay = sealed(wire, b"")
    assert give(wire, replay, LEFT) is None
    assert wire.right.peer.endpoint == LEFT
    assert give(wire, replay, moved) is None
    assert wire.right.peer.endpoint == LEFT


def test_the_responder_waits_until_the_new_key_is_used() -> None:
    wire = Wire()
    wire.left.interface.initiate(wire.left.peer, wire.now)
    wire.deliver(wire.collect())
    inner = wire.send(wire.right)
    assert [d[0] for _, d in wire.right.interface.datagrams_to_send()] == [2]
    assert wire.right.peer.staged == [inner]
    wire.right.peer.handshake_sent_at = wire.now
    datagrams = wire.collect()
    assert datagrams == []


def test_staged_packets_follow_the_confirmation() -> None:
    wire = Wire()
    wire.left.interface.initiate(wire.left.peer, wire.now)
    wire.deliver(wire.collect())
    inner = [wire.send(wire.right, fill=i) for i in range(3)]
    wire.settle()
    assert wire.left.packets == inner


def test_staged_packets_are_bounded() -> None:
    wire = Wire()
    inner = [wire.send(wire.left, 60 + i) for i in range(MAX_STAGED_PACKETS + 5)]
    assert wire.left.peer.drops == {Drop.STAGED_OVERFLOW: 5}
    wire.settle()
    assert wire.right.packets == inner[5:]


def test_without_an_endpoint_there_is_no_way() -> None:
    wire = Wire()
    wire.send(wire.right)
    wire.right.interface.initiate(wire.right.peer, wire.now)
    assert wire.right.interface.datagrams_to_send() == []
    assert wire.right.peer.drops == {Drop.NO_ENDPOINT: 1}


def test_an_endpoint_can_be_taken_away(wire: Wire) -> None:
    wire.left.interface.set_endpoint(wire.left.peer, None)
    wire.send(wire.left)
    wire.run(60)
    assert wire.sent == []
    assert wire.left.peer.drops == {Drop.NO_ENDPOINT: 1}


def test_nothing_goes_to_a_removed_peer(wire: Wire) -> None:
    peer = wire.left.peer
    wire.left.interface.remove_peer(peer)
    wire.left.interface.send(peer, packet(LEFT_INNER, RIGHT_INNER), wire.now)
    wire.left.interface.initiate(peer, wire.now)
    assert wire.left.interface.datagrams_to_send() == []
    assert wire.left.interface.deadline() is None or wire.left.interface._core.pending == {}


def test_old_sessions_open_for_a_while(wire: Wire) -> None:
    old = [sealed(wire, packet(LEFT_INNER, RIGHT_INNER, fill=i)) for i in range(2)]
    wire.now += 130
    wire.connect()
    assert give(wire, old[0]) is not None
    wire.now += 51
    assert give(wire, old[1]) is None
    assert wire.right.peer.drops == {Drop.EXPIRED: 1}


def test_an_expired_session_is_not_used(wire: Wire) -> None:
    wire.now += 180
    wire.send(wire.left)
    wire.send(wire.right)
    assert [d[0] for _, d in wire.collect()] == [1, 1]


def test_giving_up_purges_the_queue() -> None:
    wire = Wire()
    wire.fate = lambda datagram: 0
    wire.send(wire.left)
    wire.run(89)
    assert len(wire.left.peer.staged) == 1
    assert wire.left.saw(HandshakeGaveUp) == 0
    wire.run(2)
    assert wire.left.peer.staged == []
    assert wire.left.peer.drops == {Drop.GAVE_UP: 1}
    assert wire.left.saw(HandshakeGaveUp) == 1
    assert wire.left.interface._core.pending == {}
    count = len(wire.sent)
    wire.run(600)
    assert len(wire.sent) == count
    wire.fate = lambda datagram: 1
    inner = wire.send(wire.left)
    wire.settle()
    assert wire.right.packets == [inner]


def test_repr_names_the_peer(wire: Wire) -> None:
    assert str(RIGHT) in repr(wire.left.peer)
