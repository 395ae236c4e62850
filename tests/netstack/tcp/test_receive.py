"""The receiving half: order, windows, duplicates, SACK, and what is not acceptable."""

from __future__ import annotations

import pytest

from lopower.netstack.tcp.config import TcpConfig
from tests.netstack.tcp.script import HANDSHAKE, WITHOUT_OPTIONS, Script

SMALL = TcpConfig(receive_buffer=5000, max_receive_buffer=5000)
SMALL_HANDSHAKE = """
    < S 0:0(0) win 65535 <mss 1460,sackOK>
    accept
    > S. 0:0(0) ack 1 win 5000 <mss 1240,sackOK>
    < . 1:1(0) ack 1 win 65535
"""


def test_data_is_acknowledged_once_per_flush() -> None:
    t = Script()(HANDSHAKE)
    for i in range(5):
        packet = t.packet(f". {1 + i * 1000}:{1001 + i * 1000}(1000) ack 1 win 512")
        t.table.receive(*_arguments(t, packet))
    t("> . 1:1(0) ack 5001 win 473\nquiet")
    t("read 5000\nreadable 0\n> . 1:1(0) ack 5001 win 512\nquiet")


def _arguments(t: Script, packet: bytes) -> tuple[object, memoryview, object, float]:
    from lopower.netstack.ip import parse
    from tests.netstack.tcp.pair import LINK

    return LINK, memoryview(packet), parse(packet), t.now


def test_every_full_segment_is_acknowledged_at_once() -> None:
    """A delayed ACK would stall a peer whose window is four segments."""
    Script(ack_delay=0.001)(HANDSHAKE)("""
        < . 1:1241(1240) ack 1 win 512
        > . 1:1(0) ack 1241
        < P. 1241:2481(1240) ack 1 win 512
        > . 1:1(0) ack 2481
        read 2480
    """)


def test_a_small_segment_is_acknowledged_with_the_answer() -> None:
    Script(ack_delay=0.001)(HANDSHAKE)("""
        < P. 1:101(100) ack 1 win 512
        quiet
        read 100
        write 10
        > P. 1:11(10) ack 101
        +0.002
        quiet
    """)


def test_a_small_segment_without_an_answer_is_acknowledged_soon() -> None:
    Script(ack_delay=0.001)(HANDSHAKE)("""
        < P. 1:101(100) ack 1 win 512
        quiet
        +0.002
        > . 1:1(0) ack 101
    """)


def test_the_second_small_segment_is_acknowledged_at_once() -> None:
    Script(ack_delay=0.001)(HANDSHAKE)("""
        < P. 1:101(100) ack 1 win 512
        < P. 101:201(100) ack 1 win 512
        > . 1:1(0) ack 201
        +0.002
        quiet
    """)


def test_a_small_segment_is_acknowledged_at_once_when_something_is_missing() -> None:
    Script(ack_delay=0.001)(HANDSHAKE)("""
        < . 101:201(100) ack 1 win 512
        > . 1:1(0) ack 1 <sack 101:201>
        < . 1:51(50) ack 1 win 512
        > . 1:1(0) ack 51 <sack 101:201>
        < . 51:101(50) ack 1 win 512
    """)


def test_padding_after_the_packet_is_not_data() -> None:
    t = Script()(HANDSHAKE)
    link, packet, ip, now = _arguments(t, t.packet("P. 1:6(5) ack 1 win 512"))
    t.table.receive(link, memoryview(bytes(packet) + bytes(11)), ip, now)  # type: ignore[arg-type]
    t("> . 1:1(0) ack 6\nread 5")


def test_reads_in_pieces() -> None:
    Script()(HANDSHAKE)("""
        < . 1:1001(1000) ack 1 win 512
        < . 1001:2001(1000) ack 1 win 512
        < . 2001:2011(10) ack 1 win 512
        < . 2011:2021(10) ack 1 win 512
        read 300
        read 900
        read 805
        < . 2021:2031(10) ack 1 win 512
        read 20
        read 5
        readable 0
        read 0
    """)


def test_sack_blocks_the_most_recent_first() -> None:
    Script()(HANDSHAKE)("""
        < . 1001:2001(1000) ack 1 win 512
        > . 1:1(0) ack 1 <sack 1001:2001>
        < . 3001:4001(1000) ack 1 win 512
        > . 1:1(0) ack 1 <sack 3001:4001 1001:2001>
        < . 5001:6001(1000) ack 1 win 512
        > . 1:1(0) ack 1 <sack 5001:6001 3001:4001 1001:2001>
        < . 2001:2501(500) ack 1 win 512
        > . 1:1(0) ack 1 <sack 1001:2501 5001:6001 3001:4001>
        < . 2501:3001(500) ack 1 win 512
        > . 1:1(0) ack 1 <sack 1001:4001 5001:6001>
        < . 7001:8001(1000) ack 1 win 512
        < . 9001:9101(100) ack 1 win 512
        < . 9201:9301(100) ack 1 win 512
        > . 1:1(0) ack 1 <sack 7001:8001 1001:4001 5001:6001>
        > . 1:1(0) ack 1 <sack 9001:9101 7001:8001 1001:4001 5001:6001>
        > . 1:1(0) ack 1 <sack 9201:9301 9001:9101 7001:8001 1001:4001>
        readable 0
        < . 1:1001(1000) ack 1 win 512
        > . 1:1(0) ack 4001 <sack 9201:9301 9001:9101 7001:8001>
        read 4000
        > . 1:1(0) ack 4001                 # the window has opened by two segments
        < . 4001:9501(5500) ack 1 win 512
        > . 1:1(0) ack 9501 <>
        read 5500
        > . 1:1(0) ack 9501 win 512
    """)


def test_without_sack_every_segment_out_of_order_is_a_duplicate_ack() -> None:
    """Otherwise a peer with four segments in its window cannot count to three."""
    t = Script()(WITHOUT_OPTIONS)
    for i in range(1, 4):
        t.table.receive(  # type: ignore[arg-type]
            *_arguments(t, t.packet(f". {1 + i * 1000}:{1001 + i * 1000}(1000) ack 1 win 65535"))
        )
    t("""
        > . 1:1(0) ack 1 <>
        > . 1:1(0) ack 1 <>
        > . 1:1(0) ack 1 <>
        quiet
        < . 1:1001(1000) ack 1 win 65535
        > . 1:1(0) ack 4001
        read 4000
    """)


def test_duplicates_are_reported() -> None:
    """RFC 2883."""
    Script()(HANDSHAKE)("""
        < . 1:1001(1000) ack 1 win 512
        > . 1:1(0) ack 1001
        < . 1:1001(1000) ack 1 win 512
        > . 1:1(0) ack 1001 <sack 1:1001>
        < . 501:1501(1000) ack 1 win 512
        > . 1:1(0) ack 1501 <sack 501:1001>
        read 1500
    """)


def test_duplicates_out_of_order() -> None:
    Script()(HANDSHAKE)("""
        < . 1001:2001(1000) ack 1 win 512
        < . 1001:2001(1000) ack 1 win 512
        < . 1501:1601(100) ack 1 win 512
        < . 501:2501(2000) ack 1 win 512
        > . 1:1(0) ack 1 <sack 1001:2001>
        > . 1:1(0) ack 1 <sack 1001:2001>
        > . 1:1(0) ack 1 <sack 1001:2001>
        > . 1:1(0) ack 1 <sack 501:2501>
        < . 1:701(700) ack 1 win 512
        > . 1:1(0) ack 2501
        read 2500
    """)


def test_ranges_out_of_order_are_bounded() -> None:
    t = Script(TcpConfig(max_out_of_order=3))(HANDSHAKE)
    for start in (1001, 2001, 3001, 4001):
        t(f"< . {start}:{start + 10}(10) ack 1 win 512")
    t("""
        > . 1:1(0) ack 1
        > . 1:1(0) ack 1
        > . 1:1(0) ack 1 <sack 3001:3011 2001:2011 1001:1011>
        > . 1:1(0) ack 1 <sack 3001:3011 2001:2011 1001:1011>
        < . 3011:3021(10) ack 1 win 512     # growing a range is allowed
        > . 1:1(0) ack 1 <sack 3001:3021 2001:2011 1001:1011>
    """)


def test_a_closed_window_is_probed_and_opens() -> None:
    Script(SMALL)(SMALL_HANDSHAKE)("""
        < . 1:5001(5000) ack 1 win 65535
        > . 1:1(0) ack 5001 win 0
        < . 5001:5002(1) ack 1 win 65535    # a zero-window probe
        > . 1:1(0) ack 5001 win 0
        < . 5000:5000(0) ack 1 win 65535    # Linux' kind
        > . 1:1(0) ack 5001 win 0
        read 1000
        quiet                               # too little to say (silly window syndrome)
        read 1479
        quiet
        read 1
        > . 1:1(0) ack 5001 win 2480        # two segments
        read 1500
        quiet
        read 1000
        > . 1:1(0) ack 5001 win 4980
    """)


def test_what_is_beyond_the_window_is_cut_off() -> None:
    Script(SMALL)(SMALL_HANDSHAKE)("""
        < . 1:4001(4000) ack 1 win 65535
        > . 1:1(0) ack 4001 win 1000
        < . 4001:6001(2000) ack 1 win 65535
        > . 1:1(0) ack 5001 win 0
        read 5000
        > . 1:1(0) ack 5001 win 5000
        < FP. 5001:10002(5001) ack 1 win 65535   # the FIN does not fit either
        > . 1:1(0) ack 10001 win 0
        state ESTABLISHED
        read 5000
        > . 1:1(0) ack 10001 win 5000
        < F. 10001:10001(0) ack 1 win 65535
        > . 1:1(0) ack 10002
        state CLOSE_WAIT
    """)


def test_the_right_edge_never_goes_back() -> None:
    """But for the rounding of the window scale."""
    t = Script()(HANDSHAKE)
    edge, at = 1 + 65535, 1
    for count in (1, 100, 1000, 1240, 77, 5000, 1, 1):
        t.inject(f". {at}:{at + count}(%d) ack 1 win 512" % count)
        at += count
        t.flush()
        window = t.sent.pop().window << 7
        assert edge <= at + window < edge + 128
    t(f"readable {at - 1}")


def test_the_window_closes_whatever_is_rounded() -> None:
    t = Script()(HANDSHAKE)
    for at in range(1, 80_001, 100):
        t.inject(f". {at}:{at + 100}(100) ack 1 win 512")
    assert 65536 <= t.tcp.readable < 65536 + 128
    t.flush()
    assert t.sent[-1].window == 0


@pytest.mark.parametrize("start", [70001, 200_000, -70_000])
def test_outside_the_window(start: int) -> None:
    Script()(HANDSHAKE)(f"""
        < . {start}:{start + 10}(10) ack 1 win 512
        > . 1:1(0) ack 1
        readable 0
        < . {start}:{start}(0) ack 1 win 512
        > . 1:1(0) ack 1
        < . {start}:{start}(0) ack 1 win 512
        quiet                               # without data: rate limited
    """)


def test_keepalive_probes_are_answered() -> None:
    Script()(HANDSHAKE)("< . 0:0(0) ack 1 win 512\n> . 1:1(0) ack 1")
    Script()(HANDSHAKE)("< . 0:1(1) ack 1 win 512\n> . 1:1(0) ack 1")  # with a byte


def test_segments_without_ack_are_dropped() -> None:
    Script()(HANDSHAKE)("< P 1:11(10)\nquiet\nreadable 0")


def test_an_ack_of_what_was_never_sent() -> None:
    Script()(HANDSHAKE)("""
        < P. 1:11(10) ack 5 win 512
        > . 1:1(0) ack 1
        readable 0
        +1
        < P. 1:11(10) ack -70000 win 512    # or very long ago (RFC 5961, 5)
        > . 1:1(0) ack 1
        readable 0
    """)


def test_an_old_ack_does_not_hinder_the_data() -> None:
    Script()(HANDSHAKE)("""
        write 100
        > P. 1:101(100) ack 1
        < . 1:1(0) ack 101 win 512
        < P. 1:11(10) ack 51 win 0
        > . 101:101(0) ack 11
        write 10
        > P. 101:111(10) ack 11
    """)


# RFC 5961


def test_reset_must_be_exact() -> None:
    Script()(HANDSHAKE)("""
        < R 2:2(0)
        > . 1:1(0) ack 1                    # challenged
        alive
        < R 100:100(0)
        quiet                               # not more than two a second
        +0.5
        < R. 100:100(0) ack 1
        > . 1:1(0) ack 1
        < R 0:0(0)
        < R 70000:70000(0)
        quiet
        alive
        < R 1:1(0)
        gone
        error RESET
        quiet
    """)


def test_syn_in_an_established_connection_is_challenged() -> None:
    Script()(HANDSHAKE)("""
        < S 500:500(0) win 1000
        > . 1:1(0) ack 1
        +1
        < S. 0:0(0) ack 1 win 1000
        > . 1:1(0) ack 1
        alive
    """)


def test_challenges_are_bounded_for_all_together() -> None:
    t = Script(TcpConfig(challenges_per_second=1.0))(HANDSHAKE)
    t("< R 2:2(0)\n> . 1:1(0) ack 1\n+0.5\n< R 2:2(0)\nquiet\n+1\n< R 2:2(0)\n> . 1:1(0) ack 1")


def test_reset_keeps_what_was_received() -> None:
    Script()(HANDSHAKE)("""
        < P. 1:101(100) ack 1 win 512
        > . 1:1(0) ack 101
        < R. 101:101(0) ack 1
        gone
        readable 100
        read 100
    """)


# The window grows


def test_the_window_follows_what_is_read_in_a_round_trip() -> None:
    t = Script()(HANDSHAKE)
    at, edge = 1, 1 + 65535
    while t.tcp.receiver.limit < 4 << 20:
        assert t.now < 5002
        while edge - at >= 1240 and edge - at > 600:
            count = min(1240, edge - at)
            t.inject(f". {at}:{at + count}({count}) ack 1 win 512")
            at += count
            t.do_read(str(count))
        t.flush()
        edge = at + (t.sent[-1].window << 7)
        t.sent.clear()
        t.now += 0.05
    assert edge - at > 1 << 20


def test_the_window_stays_small_where_nobody_reads() -> None:
    t = Script()(HANDSHAKE)
    for at in range(1, 60_001, 1000):
        t.inject(f". {at}:{at + 1000}(1000) ack 1 win 512")
        t.now += 0.01
    assert t.tcp.receiver.limit == 65536
    t.do_readable("60000")


def test_a_window_of_single_bytes_costs_no_object_each() -> None:
    t = Script()(HANDSHAKE)
    for at in range(1, 3001):
        t.inject(f". {at}:{at + 1}(1) ack 1 win 512")
    assert t.tcp.receiver.chunks is not None
    assert len(t.tcp.receiver.chunks) < 5
    for at in range(4001, 7001):
        t.inject(f". {at}:{at + 1}(1) ack 1 win 512")
    assert t.tcp.receiver.queue is not None
    (piece,) = t.tcp.receiver.queue.ranges
    assert len(piece.chunks) < 5
    t("< . 3001:4001(1000) ack 1 win 512\nreadable 7000")
    t.sent.clear()
    t("read 2500\nread 4500")
