"""mac1, mac2 and cookies (sections 5.3, 5.4.4 and 5.4.7), of both sides."""

from __future__ import annotations

from collections.abc import Callable
from hashlib import blake2s
from hmac import compare_digest

from nacl.bindings import (
    crypto_aead_xchacha20poly1305_ietf_decrypt,
    crypto_aead_xchacha20poly1305_ietf_encrypt,
)
from nacl.exceptions import CryptoError

from lopower.wireguard.constants import COOKIE_LIFETIME, COOKIE_SECRET_LIFETIME
from lopower.wireguard.messages import COOKIE_REPLY, COOKIE_REPLY_BODY, MACS_SIZE

_LABEL_MAC1 = b"mac1----"
_LABEL_COOKIE = b"cookie--"
_NO_MAC2 = bytes(16)
_NONCE_SIZE = 24

Bytes = bytes | bytearray | memoryview


def mac1_key(public_key: bytes) -> bytes:
    """What keys mac1 in messages to the owner of this public key."""
    return blake2s(_LABEL_MAC1 + public_key).digest()


def cookie_key(public_key: bytes) -> bytes:
    """What seals the cookies that the owner of this public key hands out."""
    return blake2s(_LABEL_COOKIE + public_key).digest()


def mac(key: bytes, message: Bytes) -> bytes:
    """The keyed 16-byte BLAKE2s of the paper."""
    return blake2s(message, digest_size=16, key=key).digest()


class CookieChecker:
    """The side that is called: checks macs, hands out cookies bound to an address and port."""

    __slots__ = ("_cookie_key", "_mac1_base", "_random", "_secret", "_secret_until")

    def __init__(self, public_key: bytes, random: Callable[[int], bytes]) -> None:
        self._mac1_base = blake2s(digest_size=16, key=mac1_key(public_key))
        self._cookie_key = cookie_key(public_key)
        self._random = random
        self._secret = b""
        self._secret_until = float("-inf")

    def check_mac1(self, message: Bytes) -> bool:
        """Whether the sender knows our public key. First of all checks, and the cheapest."""
        state = self._mac1_base.copy()
        state.update(message[:-MACS_SIZE])
        return compare_digest(state.digest(), message[-MACS_SIZE:-16])

    def check_mac2(self, message: Bytes, source: bytes, now: float) -> bool:
        """Whether the sender has received our cookie at this source."""
        if now >= self._secret_until:
            return False
        return compare_digest(mac(mac(self._secret, source), message[:-16]), message[-16:])

    def reply(self, message: Bytes, source: bytes, now: float) -> bytes:
        """A cookie reply to a message with a valid mac1."""
        if now >= self._secret_until:
            self._secret = self._random(32)
            self._secret_until = now + COOKIE_SECRET_LIFETIME
        nonce = self._random(_NONCE_SIZE)
        sealed = crypto_aead_xchacha20poly1305_ietf_encrypt(
            mac(self._secret, source), bytes(message[-MACS_SIZE:-16]), nonce, self._cookie_key
        )
        sender = int.from_bytes(message[4:8], "little")
        return COOKIE_REPLY_BODY.pack(COOKIE_REPLY, sender, nonce, sealed)


class CookieJar:
    """The side that calls: adds macs, keeps the cookie of one peer."""

    __slots__ = ("_cookie", "_cookie_until", "_last_mac1")

    def __init__(self) -> None:
        self._cookie = b""
        self._cookie_until = float("-inf")
        self._last_mac1 = b""

    def add_macs(self, body: bytes, public_key: bytes, now: float) -> bytes:
        """The whole message: body, mac1, mac2."""
        self._last_mac1 = mac(mac1_key(public_key), body)
        message = body + self._last_mac1
        if now >= self._cookie_until:
            return message + _NO_MAC2
        return message + mac(self._cookie, message)

    def receive(self, nonce: bytes, sealed: bytes, public_key: bytes, now: float) -> bool:
        """Keep the cookie for the next message; False if it does not answer our last one."""
        if not self._last_mac1:
            return False
        try:
            cookie = crypto_aead_xchacha20poly1305_ietf_decrypt(
                sealed, self._last_mac1, nonce, cookie_key(public_key)
            )
        except CryptoError:
            return False
        self._cookie = cookie
        self._cookie_until = now + COOKIE_LIFETIME
        self._last_mac1 = b""
        return True
