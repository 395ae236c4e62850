"""The Noise core against vectors nobody here wrote, and against another implementation."""

from __future__ import annotations

import hmac as standard

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from hypothesis import given, settings
from hypothesis import strategies as st
from noise.connection import Keypair as NoiseKeypair  # type: ignore[import-untyped]
from noise.connection import NoiseConnection

from lopower.wireguard.noise import (
    CONSTRUCTION,
    Handshake,
    HandshakeError,
    Start,
    StaticKey,
    hmac,
    kdf1,
    kdf2,
    kdf3,
    shared_secret,
)
from tests.wireguard.wire import key

# cacophony (public domain), vectors/cacophony.txt, Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s
PROLOGUE = "4a6f686e2047616c74"
PRESHARED_KEY = "54686973206973206d7920417573747269616e20706572737065637469766521"
INITIATOR_STATIC = "e61ef9919cde45dd5f82166404bd08e38bceb5dfdfded0a34c8df7ed542214d1"
INITIATOR_EPHEMERAL = "893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"
RESPONDER_STATIC = "4a3acbfdb163dec651dfa3194dece676d437029c62a408b4c5ea9114246e4893"
RESPONDER_PUBLIC = "31e0303fd6418d2f8c0e78b91f22e8caed0fbe48656dcf4767e4834f701b8f62"
RESPONDER_EPHEMERAL = "bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"
MESSAGES = [
    (
        "4c756477696720766f6e204d69736573",
        "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c7944"
        "001e21de9f98ddd8e2ad57527207feb56253c9c94a9e496782ecfcb2a75fbcaf"
        "1b52948cc48daefe660c62119ab5000980c84831215f2441eba616548e832985"
        "464cf17e51ee93109008399a21f7e13f",
    ),
    (
        "4d757272617920526f746862617264",
        "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f144808843"
        "cb765f2caef0751b8f007572dab0322217755c0632f365717edbf34d33e87a",
    ),
    ("462e20412e20486179656b", "8153ca9833bc3c1b91a7e66e5f4d4f5b59bf9e64c2f20d15f0bba7"),
    ("4361726c204d656e676572", "07af0c9c86e1b4e80f36b04ff7688d51141af3debd0332f0a705ef"),
    (
        "4a65616e2d426170746973746520536179",
        "6ab1467c0448cc78394494abaaf23afce0e234315d6e2624dcbfa8a21c1c4d073d",
    ),
    (
        "457567656e2042f6686d20766f6e2042617765726b",
        "dfc346c0d2296ae6cf1acf6f12b8456a1dba228cf8d8b774aacf1c47fc53aa80ebc7a4c292",
    ),
]

# wireguard-go, device/kdf_test.go
KDF_CASES = [
    (
        "746573742d6b6579",
        "746573742d696e707574",
        "6f0e5ad38daba1bea8a0d213688736f19763239305e0f58aba697f9ffc41c633",
        "df1194df20802a4fe594cde27e92991c8cae66c366e8106aaa937a55fa371e8a",
        "fac6e2745a325f5dc5d11a5b165aad08b0ada28e7b4e666b7c077934a4d76c24",
    ),
    (
        "776972656775617264",
        "776972656775617264",
        "491d43bbfdaa8750aaf535e334ecbfe5129967cd64635101c566d4caefda96e8",
        "1e71a379baefd8a79aa4662212fcafe19a23e2b609a3db7d6bcba8f560e3d25f",
        "31e1ae48bddfbe5de38f295e5452b1909a1b4e38e183926af3780b0c1e1f0160",
    ),
    (
        "",
        "",
        "8387b46bf43eccfcf349552a095d8315c4055beb90208fb1be23b894bc2ed5d0",
        "58a0e5f6faefccf4807bff1f05fa8a9217945762040bcec2f4b4a62bdfe0e86e",
        "0ce6ea98ec548f8e281e93e32db65621c45eb18dc6f0a7ad94178610a2f7338e",
    ),
]

# The points of small order of Curve25519 and its twist, canonical and not (Wycheproof,
# LowOrderPublic and ZeroSharedSecret).
SMALL_ORDER = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0100000000000000000000000000000000000000000000000000000000000080",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b880",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f11d7",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
]

# Wycheproof, x25519_test.json: public, private, shared (1, 2, 7, 23 and 25)
EXCHANGES = [
    (
        "504a36999f489cd2fdbc08baff3d88fa00569ba986cba22548ffde80f9806829",
        "c8a9d5a91091ad851c668b0736c1c9a02936c0d3ad62670858088047ba057475",
        "436a2c040cf45fea9b29a0cb81b1f41458f863d0d61b453d0a982720d6d61320",
    ),
    (
        "63aa40c6e38346c5caf23a6df0a5e6c80889a08647e551b3563449befcfc9733",
        "d85d8c061a50804ac488ad774ac716c3f5ba714b2712e048491379a500211958",
        "279df67a7c4611db4708a0e8282b195e5ac0ed6f4b2f292c6fbd0acac30d1332",
    ),
    (
        "0200000000000000000000000000000000000000000000000000000000000000",
        "d03edde9f3e7b799045f9ac3793d4a9277dadeadc41bec0290f81f744f73775f",
        "b87a1722cc6c1e2feecb54e97abd5a22acc27616f78f6e315fd2b73d9f221e57",
    ),
    (
        "0000000000000000000000000000000000000000000000000000000000000020",
        "e8e43fc1ebac0bbc9b99c8035ee1ac59b90f19a16c42c0b90f96adfcc5fdee78",
        "0d41a5b3af770bf2fcd34ff7972243a0e2cf4d34f2046a144581ae1ec68df03b",
    ),
    (
        "ffffffffffffff00000000000000ffffffffffffff00000000000000ffffff7f",
        "300305eb002bf86c71fe9c0b311993727b9dc618d0ce7251d0dfd8552d17905d",
        "f8624d6e35e6c548ac47832f2e5d151a8e53b9290363b28d2ab8d84ab7cb6a72",
    ),
]

unhex = bytes.fromhex


def private(text: str) -> X25519PrivateKey:
    return X25519PrivateKey.from_private_bytes(unhex(text))


def nonce(counter: int) -> bytes:
    return bytes(4) + counter.to_bytes(8, "little")


def test_cacophony_vector() -> None:
    initiator_static = StaticKey(unhex(INITIATOR_STATIC))
    responder_static = StaticKey(unhex(RESPONDER_STATIC))
    assert responder_static.public.hex() == RESPONDER_PUBLIC
    start = Start(responder_static.public, unhex(PROLOGUE))
    static_static = shared_secret(initiator_static.private, responder_static.public)
    initiator, responder = Handshake(start), Handshake(start)

    payload, expected = map(unhex, MESSAGES[0])
    message = initiator.write_initiation(
        initiator_static,
        responder_static.public,
        static_static,
        private(INITIATOR_EPHEMERAL),
        payload,
    )
    assert message == expected
    public = responder.read_static(responder_static, message[:32], message[32:80])
    assert public == initiator_static.public
    assert responder.read_payload(static_static, message[80:]) == payload

    payload, expected = map(unhex, MESSAGES[1])
    message = responder.write_response(private(RESPONDER_EPHEMERAL), unhex(PRESHARED_KEY), payload)
    assert message == expected
    assert (
        initiator.read_response(initiator_static, unhex(PRESHARED_KEY), message[:32], message[32:])
        == payload
    )
    assert initiator.hash == responder.hash

    keys = initiator.split()
    assert keys == responder.split()
    ciphers = [ChaCha20Poly1305(keys[0]), ChaCha20Poly1305(keys[1])]
    for i, (clear, sealed) in enumerate(MESSAGES[2:]):
        assert ciphers[i % 2].encrypt(nonce(i // 2), unhex(clear), None).hex() == sealed


@pytest.mark.parametrize("case", KDF_CASES)
def test_kdf(case: tuple[str, str, str, str, str]) -> None:
    secret, material, *outputs = map(unhex, case)
    assert kdf1(secret, material) == outputs[0]
    assert kdf2(secret, material) == tuple(outputs[:2])
    assert kdf3(secret, material) == tuple(outputs)


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_hmac_is_the_standard_one(secret: bytes, message: bytes) -> None:
    assert hmac(secret, message) == standard.digest(secret, message, "blake2s256")


@pytest.mark.parametrize("point", SMALL_ORDER)
def test_points_of_small_order_are_refused(point: str) -> None:
    with pytest.raises(HandshakeError):
        shared_secret(StaticKey(key(9)).private, unhex(point))


@pytest.mark.parametrize(("public", "secret", "shared"), EXCHANGES)
def test_exchanges_of_wycheproof(public: str, secret: str, shared: str) -> None:
    assert shared_secret(private(secret), unhex(public)).hex() == shared


def oracle(
    *, initiator: bool, seed: int, remote: bytes | None, preshared: bytes
) -> NoiseConnection:
    connection = NoiseConnection.from_name(CONSTRUCTION)
    connection.set_psks(preshared)
    connection.set_prologue(b"prologue")
    if initiator:
        connection.set_as_initiator()
    else:
        connection.set_as_responder()
    connection.set_keypair_from_private_bytes(NoiseKeypair.STATIC, key(seed))
    if remote is not None:
        connection.set_keypair_from_public_bytes(NoiseKeypair.REMOTE_STATIC, remote)
    connection.start_handshake()
    return connection


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(min_size=32, max_size=32))
def test_against_noiseprotocol_as_responder(first: bytes, second: bytes, preshared: bytes) -> None:
    mine = StaticKey(key(11))
    theirs = StaticKey(key(12))
    other = oracle(initiator=False, seed=12, remote=None, preshared=preshared)
    handshake = Handshake(Start(theirs.public, b"prologue"))
    static_static = shared_secret(mine.private, theirs.public)
    message = handshake.write_initiation(
        mine, theirs.public, static_static, StaticKey(key(13)).private, first
    )
    assert bytes(other.read_message(message)) == first
    answer = bytes(other.write_message(second))
    assert handshake.read_response(mine, preshared, answer[:32], answer[32:]) == second
    send, receive = map(ChaCha20Poly1305, handshake.split())
    assert bytes(other.decrypt(send.encrypt(nonce(0), b"hello", None))) == b"hello"
    assert receive.decrypt(nonce(0), bytes(other.encrypt(b"world")), None) == b"world"


@settings(max_examples=20, deadline=None)
@given(st.binary(max_size=64), st.binary(max_size=64), st.binary(min_size=32, max_size=32))
def test_against_noiseprotocol_as_initiator(first: bytes, second: bytes, preshared: bytes) -> None:
    mine = StaticKey(key(11))
    other = oracle(initiator=True, seed=12, remote=mine.public, preshared=preshared)
    message = bytes(other.write_message(first))
    handshake = Handshake(Start(mine.public, b"prologue"))
    public = handshake.read_static(mine, message[:32], message[32:80])
    assert public == StaticKey(key(12)).public
    static_static = shared_secret(mine.private, public)
    assert handshake.read_payload(static_static, message[80:]) == first
    answer = handshake.write_response(StaticKey(key(13)).private, preshared, second)
    assert bytes(other.read_message(answer)) == second
    receive, send = map(ChaCha20Poly1305, handshake.split())
    assert bytes(other.decrypt(send.encrypt(nonce(0), b"hello", None))) == b"hello"
    assert receive.decrypt(nonce(0), bytes(other.encrypt(b"world")), None) == b"world"


def test_a_bad_response_leaves_the_handshake_as_it_was() -> None:
    mine, theirs = StaticKey(key(1)), StaticKey(key(2))
    start = Start(theirs.public)
    static_static = shared_secret(mine.private, theirs.public)
    initiator, responder = Handshake(start), Handshake(start)
    message = initiator.write_initiation(
        mine, theirs.public, static_static, StaticKey(key(3)).private, b"when"
    )
    responder.read_static(theirs, message[:32], message[32:80])
    responder.read_payload(static_static, message[80:])
    answer = responder.write_response(StaticKey(key(4)).private, bytes(32))
    with pytest.raises(HandshakeError):
        initiator.read_response(mine, bytes(32), answer[:32], answer[32:-1] + b"\0")
    with pytest.raises(HandshakeError):
        initiator.read_response(mine, bytes(32), bytes(32), answer[32:])
    assert initiator.read_response(mine, bytes(32), answer[:32], answer[32:]) == b""
    assert initiator.split() == responder.split()
