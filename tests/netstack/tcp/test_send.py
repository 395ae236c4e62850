"""The sending half without losses: windows, bursts, pacing, probes, keepalive."""

from __future__ import annotations

import pytest

from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.sender import OPEN
from tests.netstack.tcp.script import HANDSHAKE, WITHOUT_OPTIONS, Script

MSS = 1240


def test_what_fits_is_sent_at_once() -> None:
    Script()(HANDSHAKE)("""
        write 1
        > P. 1:2(1) ack 1
        write 3000
        > . 2:1242(1240) ack 1
        > . 1242:2482(1240) ack 1
        > P. 2482:3002(520) ack 1
        quiet
        < . 1:1(0) ack 3002 win 512
        quiet
    """)


def test_the_initial_window_is_ten_segments() -> None:
    Script()(HANDSHAKE)("""
        write 20000
        >> P. 1:12401(12400) ack 1
        quiet
        < . 1:1(0) ack 2481 win 512
        >> P. 12401:17361(4960) ack 1       # slow start: two for one
        < . 1:1(0) ack 4961 win 512
        >> P. 17361:20001(2640) ack 1
        quiet
    """)


def test_a_burst_ends_with_psh() -> None:
    t = Script()(HANDSHAKE)("write 12400")
    t.flush()
    assert [bool(segment.flags & 8) for segment in t.sent] == [False] * 9 + [True]


def test_bursts_are_bounded_and_the_rest_follows_soon() -> None:
    t = Script(TcpConfig(initial_window=200, limited_slow_start=1 << 20, max_bursts=1))("""
        < S 0:0(0) win 65535 <mss 1460,sackOK,wscale 7>
        accept
        > S. 0:0(0) ack 1
        +0.02
        < . 1:1(0) ack 1 win 4000
    """)
    size = 48 * MSS
    t(f"write 130000\n>> P. 1:{1 + size}({size}) ack 1\nquiet")
    # 48 of 200 segments: a quarter of the round trip, and slow start sends twice as fast.
    t(f"+0.002\nquiet\n+0.0005\n>> P. {1 + size}:{1 + 2 * size}({size}) ack 1")
    t("< . 1:1(0) ack 1241 win 4000\nquiet")  # an acknowledgement does not shorten the pause
    t(f"+0.0025\n>> P. {1 + 2 * size}:130001({130000 - 2 * size}) ack 1\nquiet")


def test_the_peers_window_is_respected() -> None:
    Script()(WITHOUT_OPTIONS)("""
        < . 1:1(0) ack 1 win 4000
        write 5000
        >> P. 1:3721(3720) ack 1             # three whole segments, not the piece left
        quiet
        < . 1:1(0) ack 1241 win 4000
        >> P. 3721:5001(1280) ack 1
    """)


def test_a_window_below_a_segment_is_filled_when_it_is_all_there_ever_is() -> None:
    Script()("""
        < S 0:0(0) win 500 <mss 1460>
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 500
        write 1200
        > P. 1:501(500) ack 1
        quiet
        < . 1:1(0) ack 501 win 500
        > P. 501:1001(500) ack 1
        < . 1:1(0) ack 1001 win 500
        > P. 1001:1201(200) ack 1
    """)


def test_silly_window_syndrome_is_avoided() -> None:
    Script()(WITHOUT_OPTIONS)("""
        write 3000
        >> P. 1:3001(3000) ack 1
        < . 1:1(0) ack 3001 win 100         # 100 of 65,535: not worth it
        write 2000
        quiet
        < . 1:1(0) ack 3001 win 1300
        > P. 3001:4241(1240) ack 1
    """)


def test_a_small_window_is_used_when_nothing_better_comes() -> None:
    """RFC 9293, 3.8.6.2.1: the override timeout."""
    Script()(WITHOUT_OPTIONS)("""
        < . 1:1(0) ack 1 win 100
        write 2000
        quiet
        +0.202
        > P. 1:101(100) ack 1
        < . 1:1(0) ack 101 win 100
        quiet
        +0.22
        > P. 101:201(100) ack 1
    """)


def test_a_closed_window_is_probed_with_growing_pauses() -> None:
    t = Script()(WITHOUT_OPTIONS)("< . 1:1(0) ack 1 win 0\nwrite 100\nquiet")
    pause = 0.201  # the RTO
    for _ in range(12):
        t(f"+{pause - 0.001:.6f}\nquiet\n+0.001001\n> . 0:0(0) ack 1")
        t("< . 1:1(0) ack 1 win 0\nquiet")
        pause = min(pause * 2, 60.0)
    t("< . 1:1(0) ack 1 win 65535\n> P. 1:101(100) ack 1\n< . 1:1(0) ack 101 win 65535\nquiet")
    assert t.tcp.sender.persist_at > t.now + 1e6


def test_a_closed_window_may_stay_closed_for_hours() -> None:
    t = Script()(WITHOUT_OPTIONS)("< . 1:1(0) ack 1 win 0\nwrite 100")
    for _ in range(200):
        t("+60\n< . 1:1(0) ack 1 win 0\nalive")


def test_a_dead_peer_with_a_closed_window_is_given_up() -> None:
    Script(TcpConfig(user_timeout=100))(WITHOUT_OPTIONS)("""
        < . 1:1(0) ack 1 win 0
        write 100
        +99
        alive
        +100
        gone
        error TIMED_OUT
    """)


def test_a_window_may_shrink() -> None:
    """RFC 9293, 3.8.6: it should not, but a sender must cope."""
    Script()(WITHOUT_OPTIONS)("""
        write 5000
        >> P. 1:5001(5000) ack 1
        < . 1:1(0) ack 1241 win 1000        # the edge has gone back to 2241
        write 5000
        quiet
        < . 1:1(0) ack 5001 win 0
        quiet
        +0.21
        > . 5000:5000(0) ack 1
        < . 1:1(0) ack 5001 win 5000
        >> P. 5001:10001(5000) ack 1
    """)


def test_a_window_that_shrank_to_nothing_is_no_dead_peer() -> None:
    t = Script(TcpConfig(user_timeout=100))(WITHOUT_OPTIONS)("write 10\n> P. 1:11(10) ack 1")
    for _ in range(20):
        t("< . 1:1(0) ack 1 win 0\n+60\nalive")
        t.sent.clear()
    t("< . 1:1(0) ack 11 win 1000\nquiet")
    t("write 10\n> P. 11:21(10) ack 1\n+300\ngone\nerror TIMED_OUT")


def test_an_older_segment_does_not_change_the_window() -> None:
    """RFC 9293, 3.10.7.4: SND.WL1 and SND.WL2."""
    t = Script()(WITHOUT_OPTIONS)("""
        < P. 1:11(10) ack 1 win 5000
        > . 1:1(0) ack 11
        < . 1:1(0) ack 1 win 9
        > . 1:1(0) ack 11
    """)
    assert t.tcp.sender.window == 5000


def test_data_carries_the_acknowledgement() -> None:
    t = Script()(HANDSHAKE)
    t.inject("P. 1:101(100) ack 1 win 512")
    t("write 50\n> P. 1:51(50) ack 101\nquiet")


def test_sack_goes_before_data() -> None:
    t = Script()(HANDSHAKE)
    t.inject("P. 101:201(100) ack 1 win 512")
    t("write 50\n> . 1:1(0) ack 1 <sack 101:201>\n> P. 1:51(50) ack 1 <>\nquiet")


def test_nagle_holds_small_segments_back() -> None:
    Script(TcpConfig(nagle=True))(HANDSHAKE)("""
        write 10
        > P. 1:11(10) ack 1
        write 10
        write 10
        quiet
        < . 1:1(0) ack 11 win 512
        > P. 11:31(20) ack 1
        write 5
        close
        > FP. 31:36(5) ack 1
    """)


def test_the_window_shrinks_after_a_pause() -> None:
    """RFC 5681, 4.1: no burst of what the path could carry an hour ago."""
    t = Script(TcpConfig(keepalive_idle=0))(HANDSHAKE)
    at = 1
    for _ in range(4):
        t(f"write 24800\n>> P. {at}:{at + 12400}(12400) ack 1" if at == 1 else "write 24800")
        t.flush()
        t.sent.clear()
        at += 24800
        t.now += 0.01
        t(f"< . 1:1(0) ack {min(at, t.tcp.sender.nxt - t.tcp.initial)} win 4000")
        t.flush()
        t.sent.clear()
        t(f"< . 1:1(0) ack {at} win 4000")
    before = t.tcp.sender.congestion.cwnd
    assert before > 20 * MSS
    t("+600\nwrite 100000")
    t.flush()
    assert len(t.sent) == 10
    assert t.tcp.sender.phase is OPEN


def test_keepalive() -> None:
    config = TcpConfig(keepalive_idle=100, keepalive_interval=10, keepalive_probes=3)
    Script(config)(HANDSHAKE)("""
        +99
        quiet
        +2
        > . 0:0(0) ack 1
        < . 1:1(0) ack 1 win 512
        +99
        quiet
        +2
        > . 0:0(0) ack 1
        +10
        > . 0:0(0) ack 1
        +10
        > . 0:0(0) ack 1
        +10
        > R. 1:1(0) ack 1
        gone
        error TIMED_OUT
    """)


def test_keepalive_is_off_with_zero() -> None:
    t = Script(TcpConfig(keepalive_idle=0))(HANDSHAKE)("+2\nquiet")
    assert t.table.deadline() is None


def test_keepalive_is_two_hours_by_default() -> None:
    Script()(HANDSHAKE)("+7199\nquiet\n+2\n> . 0:0(0) ack 1")


# The buffer


def test_write_takes_what_fits() -> None:
    t = Script()(HANDSHAKE)
    space = t.tcp.write_space()
    assert space == 64 << 10
    assert t.tcp.write(bytes(100_000), t.now) == space
    assert t.tcp.write_space() == 0
    assert t.tcp.write(b"x", t.now) == 0
    assert len(t.tcp.reserve(10)) == 0


def test_the_buffer_grows_with_the_window() -> None:
    t = Script(TcpConfig(initial_window=100))("""
        < S 0:0(0) win 65535 <mss 1460,sackOK,wscale 10>
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 60000
    """)
    assert t.tcp.write_space() == 2 * 100 * MSS


def test_a_peer_with_a_small_window_gets_a_small_buffer() -> None:
    t = Script()("""
        < S 0:0(0) win 5760 <mss 1440>
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 5760
    """)
    assert t.tcp.write_space() == 16 << 10


def test_reserve_and_commit() -> None:
    t = Script()(HANDSHAKE)
    room = t.tcp.reserve(1 << 20)
    assert len(room) == 64 << 10
    from tests.netstack.tcp.script import pattern

    room[:100] = pattern(1, 100)
    t.tcp.commit(100, t.now)
    t.written = 101
    t("> P. 1:101(100) ack 1\n< . 1:1(0) ack 101 win 512")


def test_an_empty_buffer_is_given_back() -> None:
    t = Script()(HANDSHAKE)
    t.tcp.reserve(1000)
    assert t.tcp.sender.buffer._ring is not None
    t("quiet")  # nothing was committed
    assert t.tcp.sender.buffer._ring is None
    t("write 10\n> P. 1:11(10) ack 1\n< . 1:1(0) ack 11 win 512")
    assert t.tcp.sender.buffer._ring is None


def test_nothing_can_be_written_after_the_end() -> None:
    t = Script()(HANDSHAKE)("close")
    assert t.tcp.write(b"x", t.now) == 0
    assert t.tcp.write_space() == 0
    assert len(t.tcp.reserve(5)) == 0
    t.tcp.commit(0, t.now)
    pending = Script()("< S 0:0(0) win 1000")
    assert pending.tcp.write(b"x", pending.now) == 0
    assert pending.tcp.read() == b""
    assert not pending.tcp.eof
    assert pending.tcp.readable == 0
    assert pending.tcp.mss == MSS
    assert len(pending.tcp.syn_packet()) == 40


# ICMP (RFC 5927)


@pytest.mark.parametrize("kind", ["PORT_UNREACHABLE", "HOST_UNREACHABLE", "TIME_EXCEEDED"])
def test_icmp_does_not_end_an_established_connection(kind: str) -> None:
    Script()(HANDSHAKE)(f"write 10\n> P. 1:11(10) ack 1\nicmp {kind} 1\nalive\nquiet")


def test_too_big() -> None:
    t = Script()(HANDSHAKE)("""
        write 3720
        >> P. 1:3721(3720) ack 1
        icmp TOO_BIG 5000 1000              # nothing of ours
        icmp TOO_BIG 1 1400                 # not smaller
        quiet
        icmp TOO_BIG 1 1000
        > P. 1:961(960) ack 1
        < . 1:1(0) ack 961 win 512
    """)
    assert t.tcp.mss == 960
    t("icmp TOO_BIG 2000 68")
    assert t.tcp.mss == 536


def test_icmp_for_a_request_or_without_a_number_is_ignored() -> None:
    t = Script()("< S 0:0(0) win 1000\nicmp PORT_UNREACHABLE 0\nstate PENDING")
    t.key = t.key[:-1] + b"\0"
    t("icmp PORT_UNREACHABLE 0\nstate PENDING")
