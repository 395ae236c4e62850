"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s: the handshake alone, without WireGuard's envelope.

IKpsk2:
    <- s
    ...
    -> e, es, s, ss      (payload: the timestamp)
    <- e, ee, se, psk    (payload: empty)

Prologue and ephemeral keys are inputs, so that published vectors can drive it. Every key seals
exactly one message, so the nonce is always zero. A failed read raises HandshakeError.
"""

from __future__ import annotations

from hashlib import blake2s

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
NO_PRESHARED_KEY = bytes(32)
_ZERO_NONCE = bytes(12)

# HMAC (RFC 2104) by hand: a third of the time of hmac.digest() for these short messages.
_INNER_PAD = bytes(x ^ 0x36 for x in range(256))
_OUTER_PAD = bytes(x ^ 0x5C for x in range(256))
_BLOCK_SIZE = 64

_CHAINING_KEY = blake2s(CONSTRUCTION).digest()


class HandshakeError(Exception):
    """The message does not authenticate, or a public key gives an all-zero shared secret."""


def hmac(key: bytes, message: bytes) -> bytes:
    """HMAC-BLAKE2s of a key of at most 64 bytes."""
    block = key.ljust(_BLOCK_SIZE, b"\0")
    inner = blake2s(block.translate(_INNER_PAD) + message).digest()
    return blake2s(block.translate(_OUTER_PAD) + inner).digest()


def kdf1(key: bytes, material: bytes) -> bytes:
    """One output of HKDF."""
    return hmac(hmac(key, material), b"\1")


def kdf2(key: bytes, material: bytes) -> tuple[bytes, bytes]:
    """Two outputs of HKDF."""
    block = hmac(key, material).ljust(_BLOCK_SIZE, b"\0")
    inner, outer = block.translate(_INNER_PAD), block.translate(_OUTER_PAD)
    first = blake2s(outer + blake2s(inner + b"\1").digest()).digest()
    second = blake2s(outer + blake2s(inner + first + b"\2").digest()).digest()
    return first, second


def kdf3(key: bytes, material: bytes) -> tuple[bytes, bytes, bytes]:
    """Three outputs of HKDF."""
    secret = hmac(key, material)
    first = hmac(secret, b"\1")
    second = hmac(secret, first + b"\2")
    return first, second, hmac(secret, second + b"\3")


def shared_secret(private_key: X25519PrivateKey, public_key: bytes) -> bytes:
    """X25519; refuses the points that give zeros."""
    try:
        return private_key.exchange(X25519PublicKey.from_public_bytes(public_key))
    except ValueError as error:
        raise HandshakeError("unusable public key") from error


class StaticKey:
    """A long-term key pair."""

    __slots__ = ("private", "public")

    def __init__(self, private_key: bytes) -> None:
        self.private = X25519PrivateKey.from_private_bytes(private_key)
        self.public = self.private.public_key().public_bytes_raw()


class Start:
    """The state before the first message: it depends on the responder's public key only."""

    __slots__ = ("chaining_key", "hash")

    def __init__(self, responder: bytes, prologue: bytes = IDENTIFIER) -> None:
        self.chaining_key = _CHAINING_KEY
        self.hash = blake2s(blake2s(_CHAINING_KEY + prologue).digest() + responder).digest()


class Handshake:
    """One handshake in progress, of either role."""

    __slots__ = (
        "_chaining_key",
        "_ephemeral",
        "_hash",
        "_key",
        "_remote_ephemeral",
        "_remote_static",
    )

    def __init__(self, start: Start) -> None:
        self._chaining_key = start.chaining_key
        self._hash = start.hash

    def write_initiation(
        self,
        static: StaticKey,
        remote_static: bytes,
        static_static: bytes,
        ephemeral: X25519PrivateKey,
        payload: bytes,
    ) -> bytes:
        """Message 1: e, es, s, ss."""
        self._ephemeral = ephemeral
        public = ephemeral.public_key().public_bytes_raw()
        self._mix_ephemeral(public)
        self._mix_key(shared_secret(ephemeral, remote_static))
        sealed_static = self._seal(static.public)
        self._mix_key(static_static)
        return public + sealed_static + self._seal(payload)

    def read_static(self, static: StaticKey, ephemeral: bytes, sealed_static: bytes) -> bytes:
        """The first half of message 1, e, es, s: who claims to be calling."""
        self._remote_ephemeral = ephemeral
        self._mix_ephemeral(ephemeral)
        self._mix_key(shared_secret(static.private, ephemeral))
        self._remote_static = self._open(sealed_static)
        return self._remote_static

    def read_payload(self, static_static: bytes, sealed: bytes) -> bytes:
        """The second half of message 1, ss: proves who is calling."""
        self._mix_key(static_static)
        return self._open(sealed)

    def write_response(
        self, ephemeral: X25519PrivateKey, preshared_key: bytes, payload: bytes = b""
    ) -> bytes:
        """Message 2: e, ee, se, psk."""
        public = ephemeral.public_key().public_bytes_raw()
        self._mix_ephemeral(public)
        self._mix_key(shared_secret(ephemeral, self._remote_ephemeral))
        self._mix_key(shared_secret(ephemeral, self._remote_static))
        self._mix_preshared_key(preshared_key)
        return public + self._seal(payload)

    def read_response(
        self, static: StaticKey, preshared_key: bytes, ephemeral: bytes, sealed: bytes
    ) -> bytes:
        """Message 2 at the initiator; on failure the state is as before."""
        before = self._chaining_key, self._hash
        try:
            self._mix_ephemeral(ephemeral)
            self._mix_key(shared_secret(self._ephemeral, ephemeral))
            self._mix_key(shared_secret(static.private, ephemeral))
            self._mix_preshared_key(preshared_key)
            return self._open(sealed)
        except HandshakeError:
            self._chaining_key, self._hash = before
            raise

    def split(self) -> tuple[bytes, bytes]:
        """The transport keys: initiator to responder, responder to initiator."""
        return kdf2(self._chaining_key, b"")

    @property
    def hash(self) -> bytes:
        """The transcript so far."""
        return self._hash

    def _mix_ephemeral(self, public: bytes) -> None:
        self._hash = blake2s(self._hash + public).digest()
        self._chaining_key = kdf1(self._chaining_key, public)

    def _mix_key(self, secret: bytes) -> None:
        self._chaining_key, self._key = kdf2(self._chaining_key, secret)

    def _mix_preshared_key(self, preshared_key: bytes) -> None:
        self._chaining_key, temporary, self._key = kdf3(self._chaining_key, preshared_key)
        self._hash = blake2s(self._hash + temporary).digest()

    def _seal(self, clear: bytes) -> bytes:
        sealed = ChaCha20Poly1305(self._key).encrypt(_ZERO_NONCE, clear, self._hash)
        self._hash = blake2s(self._hash + sealed).digest()
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        try:
            clear = ChaCha20Poly1305(self._key).decrypt(_ZERO_NONCE, sealed, self._hash)
        except InvalidTag:
            raise HandshakeError("does not authenticate") from None
        self._hash = blake2s(self._hash + sealed).digest()
        return clear
