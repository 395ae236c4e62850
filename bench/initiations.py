"""Handshake initiations made beforehand, so that sending them costs next to nothing.

Written from the WireGuard paper alone (5.4.2), with none of the gateway's own code.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import struct
import time
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt

CONSTRUCTION = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
IDENTIFIER = b"WireGuard v1 zx2c4 Jason@zx2c4.com"
LABEL_MAC1 = b"mac1----"
LABEL_COOKIE = b"cookie--"
RESPONSE, COOKIE = 2, 3


@dataclass(frozen=True)
class Keys:
    """What a device's file says of keys."""

    private: X25519PrivateKey
    server: X25519PublicKey

    @classmethod
    def of(cls, values: dict[str, list[str]]) -> Keys:
        private = base64.b64decode(values["privatekey"][0])
        server = base64.b64decode(values["publickey"][0])
        return cls(
            X25519PrivateKey.from_private_bytes(private), X25519PublicKey.from_public_bytes(server)
        )


def hashed(*parts: bytes) -> bytes:
    return hashlib.blake2s(b"".join(parts)).digest()


def derive(key: bytes, data: bytes) -> tuple[bytes, bytes]:
    """KDF2 of the paper."""
    secret = hmac.digest(key, data, "blake2s")
    first = hmac.digest(secret, b"\1", "blake2s")
    return first, hmac.digest(secret, first + b"\2", "blake2s")


def initiation(keys: Keys, sender: int) -> bytes:
    """A handshake initiation of 148 bytes, dated now."""
    server = keys.server.public_bytes_raw()
    chain = hashed(CONSTRUCTION)
    transcript = hashed(hashed(chain, IDENTIFIER), server)
    ephemeral = X25519PrivateKey.generate()
    public = ephemeral.public_key().public_bytes_raw()
    chain, _ = derive(chain, public)
    transcript = hashed(transcript, public)
    chain, key = derive(chain, ephemeral.exchange(keys.server))
    own = keys.private.public_key().public_bytes_raw()
    static = ChaCha20Poly1305(key).encrypt(bytes(12), own, transcript)
    transcript = hashed(transcript, static)
    _, key = derive(chain, keys.private.exchange(keys.server))
    date = ChaCha20Poly1305(key).encrypt(bytes(12), tai64n(time.time_ns()), transcript)
    message = struct.pack("<II", 1, sender) + public + static + date
    mac1_key = hashed(LABEL_MAC1, server)
    mac1 = hashlib.blake2s(message, key=mac1_key, digest_size=16).digest()
    return message + mac1 + bytes(16)


def tai64n(nanoseconds: int) -> bytes:
    seconds, fraction = divmod(nanoseconds, 1_000_000_000)
    return struct.pack(">QI", (1 << 62) + 10 + seconds, fraction)


def with_cookie(keys: Keys, message: bytes, reply: bytes) -> bytes:
    """The same message with the mac2 that a cookie reply asks for (5.4.7)."""
    key = hashed(LABEL_COOKIE, keys.server.public_bytes_raw())
    nonce, sealed, mac1 = reply[8:32], reply[32:64], message[116:132]
    cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(sealed, mac1, nonce, key)
    return message[:132] + hashlib.blake2s(message[:132], key=cookie, digest_size=16).digest()


def with_wrong_mac1() -> bytes:
    return struct.pack("<I", 1) + os.urandom(144)
