"""Real handshakes and data of other implementations: ours answers with the very same bytes."""

from __future__ import annotations

import os
from base64 import b64decode
from collections.abc import Callable

import pytest

from lopower.wireguard import Interface, Peer
from lopower.wireguard.messages import INITIATION_BODY
from lopower.wireguard.noise import Handshake, Start, StaticKey
from tests.wireguard.captures import datagrams

RESPONDER = "cFIxTUyBs1Qil414hBwEgvasEax8CKJ5IS5ZougplWs="
EPHEMERALS = [
    "QC4/FZKhFf0b/eXEcCecmZNt6V6PXmRa4EWG1PIYTU4=",
    "sBv1dhsm63cbvWMv/XML+bvynBp9PTdY9Vvptu3HQlg=",
]
WITH_PRESHARED_KEY = [
    (
        RESPONDER,
        "8G1N3LnEqYC7+NW/b6mqceVUIGBMAZSm+IpwG1U0j0w=",
        "//////////////////////////////////////////8=",
    ),
    (
        "AKeZaHwBxjiKLFnkY2unvEdOTtg4AL+M9dQXfopFVFk=",
        "0G6t5j1B/We65MXVEBIGuRGYadwB2ITdvJovtAuATmc=",
        "iIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIiIg=",
    ),
]


def prepared(values: list[bytes]) -> Callable[[int], bytes]:
    """A source of chance that hands out what was used in the capture."""

    def random(size: int) -> bytes:
        for i, value in enumerate(values):
            if len(value) == size:
                return values.pop(i)
        return os.urandom(size)

    return random


def caller(private_key: bytes, initiation: bytes) -> bytes:
    """The public key inside an initiation."""
    static = StaticKey(private_key)
    _, _, ephemeral, sealed_static, _ = INITIATION_BODY.unpack_from(initiation)
    return Handshake(Start(static.public)).read_static(static, ephemeral, sealed_static)


def responder(private_key: bytes, values: list[bytes], initiation: bytes) -> tuple[Interface, Peer]:
    interface = Interface(private_key, wall=lambda: 1532126321.0, random=prepared(values))
    peer = interface.add_peer(caller(private_key, initiation), allowed_ips=["0.0.0.0/0", "::/0"])
    return interface, peer


def chosen(ephemeral: str, response: bytes) -> list[bytes]:
    """What the responder of the capture drew: its ephemeral key and index."""
    return [b64decode(ephemeral), response[4:8][::-1]]


@pytest.mark.parametrize("name", ["wireguard-ping-tcp.pcap", "wireguard-ping-tcp-dsb.pcapng"])
def test_handshakes_and_all_data_decrypt(name: str) -> None:
    capture = datagrams(name)
    initiator = capture[0][0]
    responses = [d for _, d in capture if d[0] == 2]
    drawn = chosen(EPHEMERALS[0], responses[0]) + chosen(EPHEMERALS[1], responses[1])
    interface, peer = responder(b64decode(RESPONDER), drawn, capture[0][1])
    opened, answered = 0, []
    for now, (source, datagram) in enumerate(capture):
        if source == initiator:
            if interface.receive(datagram, source, float(now)) is not None:
                opened += 1
            answered += [d for _, d in interface.datagrams_to_send() if d[0] == 2]
        elif datagram[0] == 4:
            keypair = peer.next or peer.current
            assert keypair is not None
            nonce = bytes(4) + datagram[8:16]
            clear = keypair.sender().decrypt(nonce, datagram[16:], None)
            assert clear[0] >> 4 == 4
            opened += 1
    assert answered == responses
    keepalives = sum(len(d) == 32 for _, d in capture)
    assert opened + keepalives == 18
    assert peer.drops == {}


@pytest.mark.parametrize("index", [0, 1])
def test_handshakes_with_preshared_keys(index: int) -> None:
    private_key, ephemeral, preshared_key = WITH_PRESHARED_KEY[index]
    (source, initiation), (_, response) = datagrams("wireguard-psk.pcap")[2 * index :][:2]
    drawn = chosen(ephemeral, response)
    interface, peer = responder(b64decode(private_key), drawn, initiation)
    interface.set_preshared_key(peer, b64decode(preshared_key))
    assert interface.receive(initiation, source, 0.0) is None
    assert interface.datagrams_to_send() == [(source, response)]
