"""mac1, mac2 and cookies: the steps of wireguard-go's test, and the lifetimes."""

from __future__ import annotations

import pytest

from lopower.endpoint import Endpoint
from lopower.wireguard.constants import COOKIE_LIFETIME, COOKIE_SECRET_LIFETIME
from lopower.wireguard.cookie import CookieChecker, CookieJar
from lopower.wireguard.messages import COOKIE_REPLY_BODY, COOKIE_REPLY_SIZE
from lopower.wireguard.noise import StaticKey
from tests.wireguard.wire import chance, key

PUBLIC = StaticKey(key(1)).public
SOURCE = Endpoint("192.168.13.37", 2570).packed()
NOW = 100.0


@pytest.fixture
def checker() -> CookieChecker:
    return CookieChecker(PUBLIC, chance(1))


@pytest.fixture
def jar() -> CookieJar:
    return CookieJar()


def message(jar: CookieJar, size: int, now: float = NOW) -> bytes:
    return jar.add_macs(chance(size)(size - 32), PUBLIC, now)


def exchange(checker: CookieChecker, jar: CookieJar, source: bytes, now: float = NOW) -> bool:
    """Ask, be refused with a cookie, and keep it."""
    reply = checker.reply(message(jar, 148, now), source, now)
    assert len(reply) == COOKIE_REPLY_SIZE
    _, _, nonce, sealed = COOKIE_REPLY_BODY.unpack(reply)
    return jar.receive(nonce, sealed, PUBLIC, now)


@pytest.mark.parametrize("size", [148, 92, 64])
def test_mac1_without_a_cookie(checker: CookieChecker, jar: CookieJar, size: int) -> None:
    sent = message(jar, size)
    assert checker.check_mac1(sent)
    assert checker.check_mac1(memoryview(sent))
    assert not checker.check_mac2(sent, SOURCE, NOW)
    assert sent[-16:] == bytes(16)


@pytest.mark.parametrize("size", [148, 92, 256])
def test_mac2_with_a_cookie(checker: CookieChecker, jar: CookieJar, size: int) -> None:
    assert exchange(checker, jar, SOURCE)
    sent = message(jar, size)
    assert checker.check_mac1(sent)
    assert checker.check_mac2(sent, SOURCE, NOW)
    changed = bytearray(sent)
    changed[5] ^= 0x20
    assert not checker.check_mac1(changed)
    assert not checker.check_mac2(changed, SOURCE, NOW)


@pytest.mark.parametrize(
    "other",
    [Endpoint("192.168.13.37", 2571), Endpoint("192.168.13.38", 2570), Endpoint("2001:db8::1", 1)],
)
def test_a_cookie_is_bound_to_address_and_port(
    checker: CookieChecker, jar: CookieJar, other: Endpoint
) -> None:
    assert exchange(checker, jar, SOURCE)
    assert not checker.check_mac2(message(jar, 148), other.packed(), NOW)


def test_a_cookie_answers_one_message(checker: CookieChecker, jar: CookieJar) -> None:
    assert not jar.receive(bytes(24), bytes(32), PUBLIC, NOW)  # nothing was sent
    reply = checker.reply(message(jar, 148), SOURCE, NOW)
    _, _, nonce, sealed = COOKIE_REPLY_BODY.unpack(reply)
    assert not jar.receive(nonce, bytes(32), PUBLIC, NOW)
    assert jar.receive(nonce, sealed, PUBLIC, NOW)
    assert not jar.receive(nonce, sealed, PUBLIC, NOW)


def test_a_reply_to_another_message_is_refused(checker: CookieChecker, jar: CookieJar) -> None:
    reply = checker.reply(message(jar, 148), SOURCE, NOW)
    _, _, nonce, sealed = COOKIE_REPLY_BODY.unpack(reply)
    message(jar, 92)
    assert not jar.receive(nonce, sealed, PUBLIC, NOW)


def test_lifetimes(checker: CookieChecker, jar: CookieJar) -> None:
    assert exchange(checker, jar, SOURCE)
    late = NOW + COOKIE_LIFETIME - 0.01
    assert checker.check_mac2(message(jar, 148, late), SOURCE, late)
    assert message(jar, 148, NOW + COOKIE_LIFETIME)[-16:] == bytes(16)
    sent = message(jar, 148, late)
    assert not checker.check_mac2(sent, SOURCE, NOW + COOKIE_SECRET_LIFETIME)


def test_the_secret_changes(checker: CookieChecker, jar: CookieJar) -> None:
    assert exchange(checker, jar, SOURCE)
    old = message(jar, 148)
    later = NOW + COOKIE_SECRET_LIFETIME
    assert exchange(checker, CookieJar(), SOURCE, later)
    assert not checker.check_mac2(old, SOURCE, later)
