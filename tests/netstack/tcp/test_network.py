"""Two ends and a bad network between them: every byte arrives, in order, and nothing stalls."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.sender import Sender
from tests.netstack.tcp.pair import Conditions, End, Pair, Transfer, run_transfers

LWIP = TcpConfig(receive_buffer=5744, max_receive_buffer=5744, mtu=1480, send_buffer=5744)


def both_ways(pair: Pair, up: int, down: int) -> tuple[Transfer, Transfer]:
    random = Random(5)
    device, host = pair.establish()
    transfers = (
        Transfer(pair, device, host, random.randbytes(up)),
        Transfer(pair, host, device, random.randbytes(down)),
    )
    run_transfers(pair, list(transfers))
    pair.run(4000)
    for end in (pair.host, pair.device):
        assert not len(end.table)
        assert not end.table._time_wait
        assert end.table.deadline() is None
    assert device.error is None
    assert host.error is None
    return transfers


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1 << 30),
    loss=st.sampled_from([0.0, 0.01, 0.1, 0.3]),
    duplicate=st.sampled_from([0.0, 0.1]),
    reorder=st.sampled_from([0.0, 0.05, 0.3]),
    delay=st.sampled_from([0.0005, 0.02, 0.3]),
    jitter=st.sampled_from([0.0, 0.05]),
    up=st.integers(0, 200_000),
    down=st.integers(0, 200_000),
    bursts=st.booleans(),
    v6=st.booleans(),
    latch=st.sampled_from([0.0, 0.001]),
    newreno=st.booleans(),
)
def test_everything_arrives(
    seed: int,
    loss: float,
    duplicate: float,
    reorder: float,
    delay: float,
    jitter: float,
    up: int,
    down: int,
    bursts: bool,
    v6: bool,
    latch: float,
    newreno: bool,
) -> None:
    network = Conditions(delay, jitter, loss, duplicate, reorder)
    # So that a network that loses a third does not make the handshake or a FIN give up.
    config = TcpConfig(
        syn_retries=20,
        syn_ack_retries=20,
        user_timeout=3600,
        congestion="newreno" if newreno else "cubic",
    )
    pair = Pair(network, seed=seed, host=config, device=config, bursts=bursts, v6=v6, latch=latch)
    both_ways(pair, up, down)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_small_device(seed: int, loss: float) -> None:
    """Windows of four segments, no window scale to speak of."""
    pair = Pair(Conditions(0.005, 0.002, loss), seed=seed, device=LWIP)
    up, down = both_ways(pair, 60_000, 60_000)
    assert up.received
    assert down.received


def test_without_sack_the_network_is_still_crossed() -> None:
    for seed in range(4):
        pair = Pair(Conditions(0.01, 0.0, 0.03), seed=seed)
        pair.to_host.drop = pair.to_device.drop = lambda packet: False
        strip = _strip_sack(pair)
        both_ways(pair, 50_000, 150_000)
        assert strip


def _strip_sack(pair: Pair) -> list[int]:
    """Take SACK-permitted out of every SYN on the way, as some middleboxes do."""
    stripped: list[int] = []
    for end in (pair.host, pair.device):
        receive = end.receive_one

        def receive_one(packet: bytes, now: float, receive: object = receive) -> None:
            if packet[33] & 2 and b"\x01\x01\x04\x02" in packet[40:]:
                packet = packet[:40] + packet[40:].replace(b"\x01\x01\x04\x02", b"\x01\x01\x01\x01")
                stripped.append(1)
            receive(packet, now)  # type: ignore[operator]

        end.receive_one = receive_one  # type: ignore[method-assign]
    return stripped


@pytest.mark.parametrize("direction", ["to_host", "to_device"])
def test_an_outage_of_a_minute(direction: str) -> None:
    pair = Pair(Conditions(0.01))
    device, host = pair.establish()
    down = Transfer(pair, host, device, bytes(1_000_000))
    begun = pair.now
    getattr(pair, direction).drop = lambda packet: begun + 0.05 < pair.now < begun + 60
    run_transfers(pair, [down])
    assert 60 < down.done_at - begun < 130


def test_a_full_queue_costs_no_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client with a UDP buffer of about 90 packets: many losses at once, one round trip each."""
    timeouts = []
    on_rto = Sender._on_rto

    def counted(sender: Sender, now: float) -> bool:
        timeouts.append(now)
        return on_rto(sender, now)

    monkeypatch.setattr(Sender, "_on_rto", counted)
    for delay in (0.0002, 0.001):
        pair = Pair(
            Conditions(delay),
            Conditions(delay, rate=250e6, queue=110_000),
            checked=False,
            latch=0.0002,
        )
        device, host = pair.establish()
        begun = pair.now
        down = Transfer(pair, host, device, bytes(8_000_000))
        run_transfers(pair, [down])
        assert 8e6 * 8 / (down.done_at - begun) > 0.5e9
    assert not timeouts


def test_a_reader_that_stops_and_goes_on() -> None:
    pair = Pair(Conditions(0.01))
    device, host = pair.establish()
    data = Random(1).randbytes(500_000)
    sent = host.write(data, pair.now)
    received = bytearray()

    def on_ready(end: End, connection: object) -> None:
        nonlocal sent
        sent += host.write(data[sent:], pair.now)

    pair.on_ready = on_ready
    pair.flush()
    pair.run(30)
    assert 0 <= device.readable - (64 << 10) < 128
    while len(received) < len(data):
        received += device.read(10_000)
        pair.flush()
        pair.run(0.2)
    assert received == data


def test_simultaneous_open_of_two_stacks() -> None:
    from tests.netstack.tcp.pair import DEVICE_V4, HOST_V4, LINK

    pair = Pair(Conditions(0.01))
    one = pair.device.table.connect(LINK, DEVICE_V4, HOST_V4, pair.now)
    two = pair.host.table.connect(LINK, HOST_V4, DEVICE_V4, pair.now)
    pair.flush()
    pair.run(0.2)
    assert one.established
    assert two.established
    assert one.write(b"crossed", pair.now) == 7
    pair.flush()
    pair.run(0.2)
    assert two.read() == b"crossed"


def test_the_same_seed_gives_the_same_run() -> None:
    def run() -> tuple[float, int, int]:
        pair = Pair(Conditions(0.01, 0.01, 0.05, 0.02, 0.1), seed=9)
        both_ways(pair, 40_000, 40_000)
        return pair.now, pair.to_host.carried, pair.to_device.lost

    assert run() == run()
