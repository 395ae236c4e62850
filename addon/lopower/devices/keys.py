"""WireGuard keys: making, reading and writing them; secrets never show in a repr."""

from __future__ import annotations

import base64
import binascii
import os
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from .errors import UserError

KEY_SIZE = 32
TEXT_SIZE = 44
EXAMPLE = "it is 44 characters long and ends in '=', as printed by 'wg pubkey'"


@dataclass(frozen=True, slots=True)
class KeyPair:
    """An X25519 key pair; the private half stays out of every repr."""

    private: bytes = field(repr=False)
    public: bytes


def generate() -> KeyPair:
    """A fresh key pair."""
    private = X25519PrivateKey.generate()
    return KeyPair(private.private_bytes_raw(), private.public_key().public_bytes_raw())


def public_of(private: bytes) -> bytes:
    """The public key that belongs to a private key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def preshared() -> bytes:
    """A fresh preshared key."""
    return os.urandom(KEY_SIZE)


def encode(key: bytes) -> str:
    """A key as WireGuard writes it: 44 characters of base64."""
    return base64.b64encode(key).decode()


def decode(text: str) -> bytes:
    """The 32 bytes behind WireGuard's 44 characters; ValueError for anything else."""
    if len(text) != TEXT_SIZE:
        raise ValueError("a WireGuard key has 44 characters")
    try:
        key = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("not base64") from None
    if len(key) != KEY_SIZE or encode(key) != text:
        raise ValueError("not the base64 of 32 bytes")
    return key


def parse_public(text: str) -> bytes:
    """A public key typed by a user, refused where no handshake could ever succeed with it."""
    try:
        key = decode(text.strip())
    except ValueError:
        raise UserError(f"This is not a WireGuard public key: {EXAMPLE}.") from None
    if not usable(key):
        raise UserError("This public key is a known weak one (all zeros or of low order).")
    return key


def usable(public: bytes) -> bool:
    """Whether a key exchange with this key can give a secret (false for low-order points)."""
    try:
        X25519PrivateKey.generate().exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:
        return False
    return True
