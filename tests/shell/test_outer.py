"""The outer socket on loopback: nothing lost, nothing reordered, whatever the kernel helps with."""

from __future__ import annotations

import os
import select
import socket

import pytest

from lopower.endpoint import Endpoint
from lopower.shell import mmsg
from lopower.shell.outer import MAX_BLOCKED, OuterSocket, _endpoint, _raw_address


def drain(outer: OuterSocket, count: int) -> list[tuple[bytes, Endpoint]]:
    """The next `count` datagrams, whatever bursts they come in."""
    got: list[tuple[bytes, Endpoint]] = []
    while len(got) < count:
        assert select.select([outer], [], [], 5)[0], f"only {len(got)} of {count} came"
        for rows, source in outer.receive():
            assert len(rows.matrix) == len(rows.views)
            assert all(
                bytes(row) == bytes(v) for row, v in zip(rows.matrix, rows.views, strict=True)
            )
            got += [(bytes(view), source) for view in rows.views]
    return got


@pytest.fixture(params=["fast", "no mmsg", "no segmentation"])
def pair(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch):
    if request.param == "no mmsg":
        monkeypatch.setattr(mmsg, "available", False)
    ours, theirs = OuterSocket("", 0), OuterSocket("127.0.0.1", 0)
    if request.param == "no segmentation":
        ours._gso = theirs._gso = False
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("count", [1, 2, 5, 48])
def test_a_burst_arrives_in_order(pair: tuple[OuterSocket, OuterSocket], count: int) -> None:
    ours, theirs = pair
    burst = os.urandom(1312 * count)
    ours.send_burst(Endpoint("127.0.0.1", theirs.port), memoryview(burst), 1312)
    got = drain(theirs, count)
    assert b"".join(data for data, _ in got) == burst
    assert {source for _, source in got} == {Endpoint("127.0.0.1", ours.port)}


def test_a_burst_may_end_in_a_shorter_datagram(pair: tuple[OuterSocket, OuterSocket]) -> None:
    ours, theirs = pair
    burst = os.urandom(1312 * 3 + 100)
    ours.send_burst(Endpoint("127.0.0.1", theirs.port), memoryview(burst), 1312)
    assert [len(data) for data, _ in drain(theirs, 4)] == [1312, 1312, 1312, 100]


def test_singles_of_many_sizes_arrive_in_order(pair: tuple[OuterSocket, OuterSocket]) -> None:
    ours, theirs = pair
    sizes = [1, 92, 92, 148, 148, 148, 1312, 3000, 80, 9000, 64, 64]
    sent = [os.urandom(size) for size in sizes]
    ours.send_many((Endpoint("127.0.0.1", theirs.port), data) for data in sent)
    assert [data for data, _ in drain(theirs, len(sent))] == sent


def test_answers_find_their_way_back_over_ipv6(pair: tuple[OuterSocket, OuterSocket]) -> None:
    ours, _ = pair
    if ours.family != socket.AF_INET6:
        pytest.skip("this host has no IPv6")
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as peer:
        peer.bind(("::1", 0))
        peer.settimeout(5)
        peer.sendto(b"question", ("::1", ours.port))
        [(data, source)] = drain(ours, 1)
        assert (data, source) == (b"question", Endpoint("::1", peer.getsockname()[1]))
        ours.send_many([(source, b"answer")])
        assert peer.recv(100) == b"answer"


def test_an_unreachable_address_costs_only_its_own_datagram() -> None:
    ours, theirs = OuterSocket("", 0), OuterSocket("127.0.0.1", 0)
    good = Endpoint("127.0.0.1", theirs.port)
    bad = Endpoint("255.255.255.255", 9)  # broadcasting is not allowed to us
    ours.send_many([(good, b"1"), (bad, b"2"), (good, b"3"), (good, b"4")])
    assert [data for data, _ in drain(theirs, 3)] == [b"1", b"3", b"4"]
    assert ours.send_errors == 1
    ours.close()
    theirs.close()


def test_a_full_kernel_buffer_keeps_order_and_is_bounded() -> None:
    ours, theirs = OuterSocket("", 0), OuterSocket("127.0.0.1", 0)
    there = Endpoint("127.0.0.1", theirs.port)
    ours._block_on(there, b"first", 0)
    ours.send_many([(there, b"second")])
    ours.send_burst(there, memoryview(b"thirdtail"), 5)
    assert ours.blocked
    ours.unblock()
    assert not ours.blocked
    assert [data for data, _ in drain(theirs, 4)] == [b"first", b"second", b"third", b"tail"]
    for _ in range(2 * MAX_BLOCKED // 60_000):
        ours._block_on(there, bytes(60_000), 0)
    assert ours._blocked_bytes <= MAX_BLOCKED
    assert ours.send_errors > 0
    ours.close()
    theirs.close()


@pytest.mark.parametrize("host", ["10.1.2.3", "fd00::1", "fe80::1%3", "::1"])
def test_addresses_survive_the_kernel_form(host: str) -> None:
    raw = _raw_address(socket.AF_INET6, host, 51820)
    assert len(raw) == mmsg.SOCKADDR_SIZE
    assert _endpoint(raw) == Endpoint(host, 51820)


def test_addresses_of_an_ipv4_socket() -> None:
    raw = _raw_address(socket.AF_INET, "10.1.2.3", 7)
    assert _endpoint(raw) == Endpoint("10.1.2.3", 7)


def test_a_taken_port_is_an_error() -> None:
    first = OuterSocket("", 0)
    with pytest.raises(OSError, match="in use"):
        OuterSocket("", first.port)
    first.close()
