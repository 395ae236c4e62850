"""`noiseprotocol` as the other side, with WireGuard's envelope written by hand."""

from __future__ import annotations

from hashlib import blake2s
from struct import pack, unpack

import pytest
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]

from lopower.wireguard import Interface
from lopower.wireguard.noise import StaticKey
from tests.wireguard.wire import LEFT, LEFT_INNER, RIGHT, RIGHT_INNER, chance, key, packet

WALL = 1_750_000_000.0


def mac1(public_key: bytes, body: bytes) -> bytes:
    secret = blake2s(b"mac1----" + public_key).digest()
    return blake2s(body, digest_size=16, key=secret).digest()


def tai64n(seconds: int) -> bytes:
    return pack(">QI", 2**62 + 10 + seconds, 0)


def connection(*, initiator: bool, remote: bytes, preshared_key: bytes) -> NoiseConnection:
    noise = NoiseConnection.from_name(b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s")
    noise.set_psks(preshared_key)
    noise.set_prologue(b"WireGuard v1 zx2c4 Jason@zx2c4.com")
    if initiator:
        noise.set_as_initiator()
        noise.set_keypair_from_public_bytes(Keypair.REMOTE_STATIC, remote)
    else:
        noise.set_as_responder()
    noise.set_keypair_from_private_bytes(Keypair.STATIC, key(40))
    noise.start_handshake()
    return noise


@pytest.mark.parametrize("preshared_key", [bytes(32), key(9)])
def test_as_initiator(preshared_key: bytes) -> None:
    interface = Interface(key(2), wall=lambda: WALL, random=chance(2))
    public = StaticKey(key(40)).public
    interface.add_peer(public, preshared_key=preshared_key, allowed_ips=[f"{LEFT_INNER}/32"])
    noise = connection(initiator=True, remote=interface.public_key, preshared_key=preshared_key)
    body = pack("<II", 1, 77) + bytes(noise.write_message(tai64n(int(WALL))))
    interface.receive(body + mac1(interface.public_key, body) + bytes(16), LEFT, 5.0)
    [(endpoint, response)] = interface.datagrams_to_send()
    assert endpoint == LEFT
    assert len(response) == 92
    kind, index, receiver = unpack("<III", response[:12])
    assert (kind, receiver) == (2, 77)
    assert response[60:76] == mac1(public, response[:60])
    assert bytes(noise.read_message(response[12:60])) == b""

    inner = packet(LEFT_INNER, RIGHT_INNER, 64)
    data = pack("<IIQ", 4, index, 0) + bytes(noise.encrypt(inner))
    opened = interface.receive(data, LEFT, 5.0)
    assert opened is not None
    assert bytes(opened[1]) == inner
    answer = packet(RIGHT_INNER, LEFT_INNER, 64)
    interface.send(opened[0], answer, 5.0)
    [(_, data)] = interface.datagrams_to_send()
    assert unpack("<IIQ", data[:16]) == (4, 77, 0)
    assert bytes(noise.decrypt(data[16:])) == answer


@pytest.mark.parametrize("preshared_key", [bytes(32), key(9)])
def test_as_responder(preshared_key: bytes) -> None:
    interface = Interface(key(2), wall=lambda: WALL, random=chance(2))
    public = StaticKey(key(40)).public
    peer = interface.add_peer(
        public, preshared_key=preshared_key, allowed_ips=[f"{LEFT_INNER}/32"], endpoint=RIGHT
    )
    inner = packet(RIGHT_INNER, LEFT_INNER, 64)
    interface.send(peer, inner, 5.0)
    [(_, initiation)] = interface.datagrams_to_send()
    assert initiation[116:132] == mac1(public, initiation[:116])
    noise = connection(initiator=False, remote=b"", preshared_key=preshared_key)
    assert bytes(noise.read_message(initiation[8:116])) == tai64n(int(WALL))
    index = unpack("<I", initiation[4:8])[0]
    body = pack("<III", 2, 88, index) + bytes(noise.write_message(b""))
    interface.receive(body + mac1(interface.public_key, body) + bytes(16), RIGHT, 5.1)
    [(_, data)] = interface.datagrams_to_send()
    assert unpack("<IIQ", data[:16]) == (4, 88, 0)
    assert bytes(noise.decrypt(data[16:])) == inner
    answer = packet(LEFT_INNER, RIGHT_INNER, 64)
    opened = interface.receive(pack("<IIQ", 4, index, 0) + bytes(noise.encrypt(answer)), RIGHT, 5.2)
    assert opened is not None
    assert bytes(opened[1]) == answer
