"""Losses: SACK, RACK, NewReno, loss probes, timeouts, and mistakes about them."""

from __future__ import annotations

import pytest

from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.sender import LOSS, OPEN, RECOVERY
from tests.netstack.tcp.script import HANDSHAKE, WITHOUT_OPTIONS, Script

MSS = 1240


def sack_flight(config: TcpConfig | None = None) -> Script:
    """Ten segments in flight, 1:12401, after one round trip of 20 ms, to a peer with SACK."""
    t = Script(config)("""
        < S 0:0(0) win 65535 <mss 1460,sackOK,wscale 7>
        accept
        > S. 0:0(0) ack 1
        +0.02
        < . 1:1(0) ack 1 win 512
        write 12400
        >> P. 1:12401(12400) ack 1
    """)
    t.now += 0.02
    return t


def plain_flight() -> Script:
    """The same, to a peer without SACK."""
    t = Script()("""
        < S 0:0(0) win 65535 <mss 1460>
        accept
        > S. 0:0(0) ack 1
        +0.02
        < . 1:1(0) ack 1 win 65535
        write 12400
        >> P. 1:12401(12400) ack 1
    """)
    t.now += 0.02
    return t


def test_three_segments_beyond_a_hole_mean_a_loss() -> None:
    t = sack_flight()("""
        < . 1:1(0) ack 1 win 512 <sack 1241:4961>
        > . 1:1241(1240) ack 1
        quiet
        < . 1:1(0) ack 12401 win 512
        quiet
    """)
    assert t.tcp.sender.phase is OPEN
    assert t.tcp.sender.congestion.cwnd == int(10 * MSS * 0.7)  # CUBIC


def test_two_segments_beyond_a_hole_may_be_reordering() -> None:
    """RACK waits a quarter of the round-trip time."""
    t = sack_flight()("""
        < . 1:1(0) ack 1 win 512 <sack 1241:3721>
        quiet
        +0.004
        quiet
        +0.002
        > . 1:1241(1240) ack 1
    """)
    assert t.tcp.sender.phase is RECOVERY


def test_reordering_is_not_a_loss() -> None:
    t = sack_flight()("""
        < . 1:1(0) ack 1 win 512 <sack 1241:3721>
        < . 1:1(0) ack 3721 win 512
        +0.02
        < . 1:1(0) ack 12401 win 512
        quiet
    """)
    assert t.tcp.sender.phase is OPEN
    assert t.tcp.sender.congestion.cwnd >= 10 * MSS


def test_after_reordering_three_are_not_enough() -> None:
    t = sack_flight()("""
        < . 1:1(0) ack 1 win 512 <sack 1241:2481>
        < . 1:1(0) ack 2481 win 512
        < . 1:1(0) ack 2481 win 512 <sack 3721:9921>
        quiet
        +0.006
        > . 2481:3721(1240) ack 1
    """)
    assert t.tcp.sender.phase is RECOVERY


def test_many_holes_in_one_round_trip() -> None:
    t = sack_flight()("""
        < . 1:1(0) ack 1241 win 512 <sack 11161:12401 8681:9921 6201:7441 3721:4961>
    """)
    # Proportional rate reduction: one for each that has arrived, and no more.
    t("> . 1241:2481(1240) ack 1")
    t.flush()
    sent = 1 + len(t.sent)
    assert 2 <= sent <= 6
    starts = [(s.sequence - t.initial) & 0xFFFFFFFF for s in t.sent]  # type: ignore[operator]
    assert starts == sorted(starts)
    assert not set(starts) & {3721, 6201, 8681, 11161}


def test_all_holes_of_a_flight_are_filled_without_a_timeout() -> None:
    t = sack_flight()
    have = {3, 5, 7, 9}  # segments that have arrived, of 0 to 9
    t(_sack_of(have))
    for _ in range(20):
        t.flush()
        if not t.sent and len(have) < 10:
            break
        for segment in t.sent:
            have.add(((segment.sequence - (t.initial or 0)) - 1) // MSS)
        t.sent.clear()
        t.now += 0.02
        t(_sack_of(have))
    assert have == set(range(10))
    assert t.tcp.sender.phase is OPEN


def _sack_of(have: set[int]) -> str:
    una = min(set(range(11)) - have)
    beyond = [i for i in sorted(have) if i > una]
    blocks = " ".join(f"{1 + i * MSS}:{1 + (i + 1) * MSS}" for i in beyond[-4:])
    options = f" <sack {blocks}>" if blocks else ""
    return f"< . 1:1(0) ack {1 + una * MSS} win 512{options}"


def test_limited_transmit() -> None:
    """RFC 3042: each of the first duplicates lets one new segment out."""
    t = sack_flight()("write 6000\nquiet")
    t("""
        < . 1:1(0) ack 1 win 512 <sack 1241:2481>
        > . 12401:13641(1240) ack 1
        < . 1:1(0) ack 1 win 512 <sack 1241:3721>
        > . 13641:14881(1240) ack 1
    """)


def test_a_lost_retransmission_is_sent_again_without_a_timeout() -> None:
    t = sack_flight()("""
        write 20000
        < . 1:1(0) ack 1 win 512 <sack 1241:9921>
        > . 1:1241(1240) ack 1
    """)
    t.flush()
    new = t.sent[-1]
    end = (new.sequence - (t.initial or 0)) + len(new.payload)
    assert end > 12401  # new data went after the retransmission
    t.sent.clear()
    t.now += 0.02
    # The new data has arrived, the retransmission before it has not.
    t(f"< . 1:1(0) ack 1 win 512 <sack 1241:{end}>")
    t("> . 1:1241(1240) ack 1")
    assert t.tcp.sender.phase is RECOVERY


def test_tail_loss_probe_repairs_the_last_segment() -> None:
    t = sack_flight()("""
        < . 1:1(0) ack 11161 win 512
        +0.035
        quiet
        +0.22
        > P. 11161:12401(1240) ack 1        # one in flight: a delayed ACK may be under way
        < . 1:1(0) ack 12401 win 512
        quiet
    """)
    assert t.tcp.sender.phase is OPEN


def test_tail_loss_probe_finds_a_lost_tail() -> None:
    t = sack_flight()("""
        < . 1:1(0) ack 4961 win 512
        +0.045
        > P. 11161:12401(1240) ack 1
        +0.02
        < . 1:1(0) ack 4961 win 512 <sack 11161:12401>
        +0.01
        > . 4961:6201(1240) ack 1
    """)
    assert t.tcp.sender.phase is RECOVERY


def test_tail_loss_probe_with_new_data() -> None:
    t = Script()("""
        < S 0:0(0) win 2480 <mss 1460,sackOK>
        accept
        > S. 0:0(0) ack 1
        +0.02
        < . 1:1(0) ack 1 win 2480
        write 6200
        >> P. 1:2481(2480) ack 1
        < . 1:1(0) ack 1 win 4000            # the window opens, but not enough is acknowledged
        > . 2481:3721(1240) ack 1
    """)
    t.tcp.sender.congestion.cwnd = 3 * MSS
    t("< . 1:1(0) ack 1 win 9000\nquiet\n+0.05\n> . 3721:4961(1240) ack 1")


def test_a_loss_the_probe_repaired_is_answered_by_a_smaller_window() -> None:
    t = sack_flight()("write 1240")
    t("""
        < . 1:1(0) ack 11161 win 512
        > P. 12401:13641(1240) ack 1
        +0.05
        > P. 12401:13641(1240) ack 1
        write 1240
        > P. 13641:14881(1240) ack 1
    """)
    before = t.tcp.sender.congestion.cwnd
    t("< . 1:1(0) ack 14881 win 512\nquiet")
    assert t.tcp.sender.congestion.cwnd < before


def test_a_superfluous_probe_costs_nothing() -> None:
    for answer in ("", " <sack 11161:12401>"):
        t = sack_flight()("""
            < . 1:1(0) ack 4961 win 512
            +0.045
            > P. 11161:12401(1240) ack 1
            < . 1:1(0) ack 12401 win 512
        """)
        before = t.tcp.sender.congestion.cwnd
        t(f"< . 1:1(0) ack 12401 win 512{answer}\nquiet")
        assert t.tcp.sender.congestion.cwnd == before


# Without SACK: NewReno (RFC 6582)


def test_three_duplicates() -> None:
    t = plain_flight()("""
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        quiet
        < . 1:1(0) ack 1 win 65535
        > . 1:1241(1240) ack 1
        quiet
    """)
    assert t.tcp.sender.phase is RECOVERY
    t("< . 1:1(0) ack 12401 win 65535\nquiet")
    assert t.tcp.sender.phase is OPEN


def test_partial_acknowledgements() -> None:
    plain_flight()("""
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        < . 1:1(0) ack 1 win 65535
        > . 1:1241(1240) ack 1
        +0.02
        < . 1:1(0) ack 3721 win 65535
        > . 3721:4961(1240) ack 1
        +0.02
        < . 1:1(0) ack 8681 win 65535
        > . 8681:9921(1240) ack 1
        +0.02
        < . 1:1(0) ack 12401 win 65535
        quiet
    """)


def test_what_is_not_a_duplicate() -> None:
    plain_flight()("""
        < . 1:1(0) ack 1 win 65534          # a window update
        < . 1:1(0) ack 1 win 65533
        < . 1:1(0) ack 1 win 65532
        quiet
        < P. 1:11(10) ack 1 win 65532       # data
        > . 12401:12401(0) ack 11
        < P. 11:21(10) ack 1 win 65532
        > . 12401:12401(0) ack 21
        < P. 21:31(10) ack 1 win 65532
        > . 12401:12401(0) ack 31
        quiet
    """)


def test_early_retransmit_with_a_window_of_few_segments() -> None:
    """RFC 5827: lwIP has four segments in flight, so two duplicates at most may come."""
    t = Script()("""
        < S 0:0(0) win 5760 <mss 1240>
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 5760
        write 3720
        >> P. 1:3721(3720) ack 1
        +0.02
        < . 1:1(0) ack 1 win 5760
        quiet
        < . 1:1(0) ack 1 win 5760
        > . 1:1241(1240) ack 1
        < . 1:1(0) ack 3721 win 5760
        quiet
    """)
    assert t.tcp.sender.phase is OPEN


# Timeouts (RFC 6298)


def test_timeouts_back_off() -> None:
    t = Script()(WITHOUT_OPTIONS)("write 100\n> P. 1:101(100) ack 1")
    timeout = 0.201
    for _ in range(9):
        t(f"+{timeout - 0.0001:.6f}\nquiet\n+0.0001001\n> P. 1:101(100) ack 1")
        timeout = min(timeout * 2, 60)
    t("< . 1:1(0) ack 101 win 65535\nwrite 10\n> P. 101:111(10) ack 1")
    t(f"+{timeout - 0.01}\nquiet\n+0.01\n> P. 101:111(10) ack 1")  # until there is a measurement
    t("< . 1:1(0) ack 111 win 65535\nwrite 10\n> P. 111:121(10) ack 1\n+0.01")
    t("< . 1:1(0) ack 121 win 65535\nwrite 10\n> P. 121:131(10) ack 1")
    t("+0.25\n> P. 121:131(10) ack 1")


def test_a_retransmission_gives_no_round_trip_time() -> None:
    """Karn's algorithm."""
    t = Script()(WITHOUT_OPTIONS)("write 100\n> P. 1:101(100) ack 1\n+0.25\n> P. 1:101(100) ack 1")
    before = t.tcp.sender.rtt.srtt
    t("+0.1\n< . 1:1(0) ack 101 win 65535")
    assert t.tcp.sender.rtt.srtt == before


def test_after_a_timeout_everything_goes_again_but_what_was_sacked() -> None:
    t = sack_flight()("< . 1:1(0) ack 1 win 512 <sack 4961:6201>\n+0.003")
    t.sent.clear()
    t.now += 0.001
    sender = t.tcp.sender
    sender.rto_at = t.now
    sender.reorder_at = sender.probe_at = 1e18
    t.table.handle_timer(t.now)
    t.tcp.on_timer(t.now)
    assert sender.phase is LOSS
    t("""
        > . 1:1241(1240) ack 1
        quiet
        +0.02
        < . 1:1(0) ack 1241 win 512 <sack 4961:6201>
        >> . 1241:3721(2480) ack 1
        quiet
        +0.02
        < . 1:1(0) ack 3721 win 512 <sack 4961:6201>
        > . 3721:4961(1240) ack 1
    """)
    t.flush()
    assert all(s.sequence - (t.initial or 0) >= 6201 for s in t.sent)
    t.sent.clear()
    t("< . 1:1(0) ack 12401 win 512\nquiet")
    assert sender.phase is OPEN


def test_a_receiver_may_forget_what_it_sacked() -> None:
    """RFC 2018, 8: reneging."""
    t = Script()(HANDSHAKE)("""
        write 3720
        >> P. 1:3721(3720) ack 1
        < . 1:1(0) ack 1 win 512 <sack 1241:2481>
        < . 1:1(0) ack 1241 win 512
    """)
    t.sent.clear()
    t("+0.25")
    t.sent.clear()
    assert t.tcp.sender.flight.sacked == 0
    t("+0.9")
    starts = {s.sequence - (t.initial or 0) for s in t.sent}
    assert 1241 in starts
    t.sent.clear()
    t("< . 1:1(0) ack 3721 win 512\nquiet")


def test_a_spurious_timeout_is_undone() -> None:
    """RFC 5682: an acknowledgement of what was never sent again came after all."""
    t = sack_flight()
    before = t.tcp.sender.congestion.cwnd
    t("+0.06")
    t.sent.clear()
    t("+0.3\n> . 1:1241(1240) ack 1\nquiet")
    assert t.tcp.sender.phase is LOSS
    t("< . 1:1(0) ack 2481 win 512")
    t.flush()
    assert t.tcp.sender.phase is OPEN
    assert t.tcp.sender.congestion.cwnd >= before
    assert not t.sent
    t("< . 1:1(0) ack 12401 win 512\nquiet")


def test_user_timeout() -> None:
    t = Script(TcpConfig(user_timeout=100))(HANDSHAKE)("write 10\n> P. 1:11(10) ack 1\n+99\nalive")
    t.sent.clear()
    t("+60\ngone\nerror TIMED_OUT")


def test_icmp_is_the_reason_when_nobody_answers() -> None:
    t = Script(TcpConfig(user_timeout=100))(HANDSHAKE)("write 10\n> P. 1:11(10) ack 1")
    t("icmp HOST_UNREACHABLE 1\n+200\ngone\nerror UNREACHABLE")


def test_progress_keeps_a_slow_peer_alive() -> None:
    t = Script(TcpConfig(user_timeout=100))(WITHOUT_OPTIONS)("write 1000")
    for i in range(10):
        t("+60")
        t.sent.clear()
        t(f"< . 1:1(0) ack {(i + 1) * 100} win 65535\nalive")


# Odd SACKs


@pytest.mark.parametrize(
    "blocks",
    ["12401:13641", "0:1", "1:1241", "5000:4000", "-5000:-4000", "200000:300000"],
)
def test_nonsense_in_sack_is_ignored(blocks: str) -> None:
    t = sack_flight()(f"< . 1:1(0) ack 1241 win 512 <sack {blocks}>")
    assert t.tcp.sender.flight.sacked == 0
    t("< . 1:1(0) ack 12401 win 512\nquiet")


def test_sack_from_a_peer_that_did_not_offer_it() -> None:
    t = plain_flight()("< . 1:1(0) ack 1 win 65535 <sack 1241:12401>\nquiet")
    assert t.tcp.sender.flight.sacked == 0


def test_sack_with_an_older_acknowledgement() -> None:
    """Acknowledgements can be reordered, too."""
    t = sack_flight()("""
        < . 1:1(0) ack 2481 win 512
        < . 1:1(0) ack 1241 win 512 <sack 3721:4961>
    """)
    assert t.tcp.sender.flight.sacked == 1240


def test_the_scoreboard_is_bounded() -> None:
    t = sack_flight(TcpConfig(max_runs=8))
    for start in range(101, 12001, 200):
        t(f"< . 1:1(0) ack 1 win 512 <sack {start}:{start + 50}>")
    assert len(t.tcp.sender.flight.runs) <= 10
    t.sent.clear()
    t("< . 1:1(0) ack 12401 win 512\nwrite 10\n> P. 12401:12411(10) ack 1")
