"""The rate limiter, with wireguard-go's table, and the detection of load."""

from __future__ import annotations

import pytest

from lopower.endpoint import Endpoint
from lopower.wireguard.constants import (
    HANDSHAKES_BURST,
    HANDSHAKES_PER_SECOND,
    LOAD_DRAIN_PER_SECOND,
    LOAD_STICKY_TIME,
    LOAD_THRESHOLD,
)
from lopower.wireguard.ratelimit import LoadMeter, RateLimiter

INTERVAL = 1 / HANDSHAKES_PER_SECOND

# wireguard-go, ratelimiter/ratelimiter_test.go: wait before, allowed
STEPS = [(0.0, True)] * HANDSHAKES_BURST + [
    (0.0, False),  # after the burst
    (INTERVAL, True),  # filling tokens for a single packet
    (0.0, False),  # not having refilled enough
    (2 * INTERVAL, True),  # filling tokens for a burst of two
    (0.0, True),
    (0.0, False),  # after the burst of two
]
SOURCES = [
    "127.0.0.1",
    "192.168.1.1",
    "172.167.2.3",
    "97.231.252.215",
    "248.97.91.167",
    "188.208.233.47",
    "104.2.183.179",
    "72.129.46.120",
    "2001:0db8:0a0b:12f0:0000:0000:0000:0001",
    "f5c2:818f:c052:655a:9860:b136:6894:25f0",
    "b2d7:15ab:48a7:b07c:a541:f144:a9fe:54fc",
    "a47b:786e:1671:a22b:d6f9:4ab0:abc7:c918",
    "ea1e:d155:7f7a:98fb:2bf5:9483:80f6:5445",
    "3f0e:54a2:f5b4:cd19:a21d:58e1:3746:84c4",
]


@pytest.mark.parametrize("start", [0.0, 3.7, 1e9])
def test_the_table_of_wireguard_go(start: float) -> None:
    limiter, now = RateLimiter(HANDSHAKES_PER_SECOND, HANDSHAKES_BURST), start
    for wait, allowed in STEPS:
        now += wait
        for host in SOURCES:
            source = Endpoint(host, 1).source_prefix()
            assert limiter.allow(source, now) is allowed, (host, now)


def test_one_ipv6_network_is_one_source() -> None:
    limiter = RateLimiter(HANDSHAKES_PER_SECOND, HANDSHAKES_BURST)
    hosts = [f"2001:db8::{i:x}" for i in range(6)]
    results = [limiter.allow(Endpoint(host, 1).source_prefix(), 0.0) for host in hosts]
    assert results == [True] * 5 + [False]


def test_the_table_is_bounded_and_swept() -> None:
    limiter = RateLimiter(20, 5, capacity=3)
    assert all(limiter.allow(source, 0.0) for source in range(3))
    assert not limiter.allow(3, 0.0)
    assert not limiter.allow(3, 0.5)  # swept a moment ago
    assert limiter.allow(0, 0.5)
    assert limiter.allow(3, 2.0)
    assert len(limiter) == 1


def test_load_is_sticky() -> None:
    meter = LoadMeter()
    assert not any(meter.count(5.0) for _ in range(LOAD_THRESHOLD))
    assert meter.count(5.0)
    assert meter.count(5.0 + 0.9 * LOAD_STICKY_TIME)
    assert not meter.count(5.0 + 2.5 * LOAD_STICKY_TIME)


def test_a_steady_rate_below_the_drain_is_no_load() -> None:
    meter = LoadMeter()
    step = 1 / (0.9 * LOAD_DRAIN_PER_SECOND)
    assert not any(meter.count(10 + i * step) for i in range(2000))


def test_a_flood_is_noticed_and_forgotten() -> None:
    meter = LoadMeter()
    step = 1 / (10 * LOAD_DRAIN_PER_SECOND)
    flood = range(6 * LOAD_THRESHOLD)
    assert sum(meter.count(10 + i * step) for i in flood) > 4 * LOAD_THRESHOLD
    assert not meter.count(13.0)
