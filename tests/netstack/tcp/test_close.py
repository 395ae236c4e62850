"""Ways to end: FINs in every order, half-close, orphans, resets, TIME-WAIT."""

from __future__ import annotations

import pytest

from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.state import TcpError
from tests.netstack.tcp.pair import LINK
from tests.netstack.tcp.script import HANDSHAKE, Script

ACTIVE_CLOSE = """
    close
    > F. 1:1(0) ack 1
    state FIN_WAIT_1
"""


def test_we_close_first() -> None:
    t = Script()(HANDSHAKE)(ACTIVE_CLOSE)("""
        < . 1:1(0) ack 2 win 512
        state FIN_WAIT_2
        alive
        < F. 1:1(0) ack 2 win 512
        > . 2:2(0) ack 2
        state TIME_WAIT
        eof
        gone
    """)
    assert t.tcp.error is None


def test_the_device_closes_first() -> None:
    t = Script()(HANDSHAKE)("""
        < F. 1:1(0) ack 1 win 512
        > . 1:1(0) ack 2
        state CLOSE_WAIT
        eof
        alive
        close
        > F. 1:1(0) ack 2
        state LAST_ACK
        < . 2:2(0) ack 2 win 512
        gone
        state CLOSED
    """)
    assert t.tcp.error is None
    assert not t.table._time_wait


def test_fin_answered_by_fin() -> None:
    Script()(HANDSHAKE)(ACTIVE_CLOSE)("""
        < F. 1:1(0) ack 2 win 512
        > . 2:2(0) ack 2
        state TIME_WAIT
    """)


def test_both_close_at_once() -> None:
    Script()(HANDSHAKE)(ACTIVE_CLOSE)("""
        < F. 1:1(0) ack 1 win 512
        > . 2:2(0) ack 2
        state CLOSING
        < . 2:2(0) ack 2 win 512
        state TIME_WAIT
        quiet
        < . 2:2(0) ack 2 win 512
        quiet
    """)


def test_half_close_by_us() -> None:
    Script()(HANDSHAKE)(ACTIVE_CLOSE)("""
        < P. 1:101(100) ack 2 win 512
        > . 2:2(0) ack 101
        read 100
        +3600
        alive
        < P. 101:201(100) ack 2 win 512
        > . 2:2(0) ack 201
        < F. 201:201(0) ack 2 win 512
        > . 2:2(0) ack 202
        gone
        readable 100
        read 100
        eof
    """)


def test_half_close_by_the_device() -> None:
    Script()(HANDSHAKE)("""
        < FP. 1:11(10) ack 1 win 512
        > . 1:1(0) ack 12
        read 10
        eof
        write 3000
        >> P. 1:3001(3000) ack 12
        < . 12:12(0) ack 3001 win 512
        close
        > F. 3001:3001(0) ack 12
        < . 12:12(0) ack 3002 win 512
        gone
    """)


def test_the_fin_goes_with_the_last_data() -> None:
    Script()(HANDSHAKE)("write 10\nclose\n> FP. 1:11(10) ack 1\nquiet")
    t = Script()(HANDSHAKE)("write 4960\nclose\n>> FP. 1:4961(4960) ack 1\nquiet")
    t("< . 1:1(0) ack 4962 win 512\nstate FIN_WAIT_2")


def test_the_fin_waits_for_the_data() -> None:
    Script()(HANDSHAKE)("""
        write 13000
        close
        state FIN_WAIT_1
        >> P. 1:12401(12400) ack 1
        quiet
        < . 1:1(0) ack 12401 win 512
        > FP. 12401:13001(600) ack 1
        < . 1:1(0) ack 13002 win 512
        state FIN_WAIT_2
    """)


def test_the_fin_waits_for_the_window() -> None:
    t = Script()(HANDSHAKE)("< . 1:1(0) ack 1 win 0\nclose\nquiet\n+0.21")
    t.sent.clear()
    t("< . 1:1(0) ack 1 win 512\n> F. 1:1(0) ack 1")


def test_a_lost_fin_is_repeated() -> None:
    Script()(HANDSHAKE)(ACTIVE_CLOSE)("""
        +0.202
        > F. 1:1(0) ack 1
        +0.402
        > F. 1:1(0) ack 1
        < . 1:1(0) ack 2 win 512
        +100
        quiet
        state FIN_WAIT_2
    """)


def test_a_fin_with_data_is_repeated_together() -> None:
    Script()(HANDSHAKE)("write 10\nclose\n> FP. 1:11(10) ack 1\n+0.5\n> FP. 1:11(10) ack 1")


def test_a_fin_of_which_only_the_data_arrived() -> None:
    Script()(HANDSHAKE)("""
        write 10
        close
        > FP. 1:11(10) ack 1
        < . 1:1(0) ack 11 win 512
        quiet
        state FIN_WAIT_1
        +0.5
        > F. 11:11(0) ack 1
        < . 1:1(0) ack 12 win 512
        state FIN_WAIT_2
    """)


def test_a_fin_out_of_order() -> None:
    Script()(HANDSHAKE)("""
        < FP. 101:201(100) ack 1 win 512
        > . 1:1(0) ack 1 <sack 101:201>
        state ESTABLISHED
        < . 1:101(100) ack 1 win 512
        > . 1:1(0) ack 202
        state CLOSE_WAIT
        read 200
        eof
    """)


def test_nothing_counts_after_the_fin() -> None:
    Script()(HANDSHAKE)("""
        < F. 101:101(0) ack 1 win 512
        > . 1:1(0) ack 1
        < P. 1:301(300) ack 1 win 512
        > . 1:1(0) ack 102
        readable 100
        < P. 102:112(10) ack 1 win 512
        quiet
        readable 100
    """)


def test_a_repeated_fin_is_acknowledged_again() -> None:
    Script()(HANDSHAKE)("""
        < F. 1:1(0) ack 1 win 512
        > . 1:1(0) ack 2
        < F. 1:1(0) ack 1 win 512
        > . 1:1(0) ack 2
        state CLOSE_WAIT
    """)


def test_closing_twice_changes_nothing() -> None:
    Script()(HANDSHAKE)(ACTIVE_CLOSE)("close\nquiet\nrelease\nabort\n> R. 2:2(0) ack 1\nclose")


def test_abort() -> None:
    Script()(HANDSHAKE)("""
        write 5000
        abort
        > R. 1:1(0) ack 1
        quiet
        gone
        error ABORTED
        < . 1:1(0) ack 1 win 512
        > R 1:1(0)
    """)


# Nobody owns it any more


def test_an_orphan_does_not_stay_in_fin_wait_2() -> None:
    Script()(HANDSHAKE)("""
        release
        > F. 1:1(0) ack 1
        < . 1:1(0) ack 2 win 512
        state FIN_WAIT_2
        +59
        alive
        +2
        gone
        quiet
    """)


def test_released_in_fin_wait_2() -> None:
    Script()(HANDSHAKE)(ACTIVE_CLOSE)("< . 1:1(0) ack 2 win 512\n+500\nrelease\n+61\ngone")


def test_an_orphan_sends_what_was_written() -> None:
    t = Script()(HANDSHAKE)("""
        write 13000
        release
        >> P. 1:12401(12400) ack 1
        < . 1:1(0) ack 12401 win 512
        > FP. 12401:13001(600) ack 1
        < F. 1:1(0) ack 13002 win 512
        > . 13002:13002(0) ack 2
        gone
    """)
    assert t.tcp.owner is None


def test_data_for_an_orphan_is_reset() -> None:
    Script()(HANDSHAKE)("""
        release
        > F. 1:1(0) ack 1
        < P. 1:11(10) ack 2 win 512
        > R. 2:2(0) ack 1
        gone
    """)


def test_releasing_with_unread_data_is_a_reset() -> None:
    """RFC 2525, 2.17."""
    Script()(HANDSHAKE)("< P. 1:11(10) ack 1 win 512\nrelease\n> R. 1:1(0) ack 11\ngone")


def test_releasing_what_is_over() -> None:
    Script()(HANDSHAKE)("< P. 1:11(10) ack 1 win 512\n< R 11:11(0)\nrelease\ngone\nread 10")
    Script()("< S 0:0(0) win 1000\nrelease\n> R. 0:0(0) ack 1\ngone")


# Resets


@pytest.mark.parametrize(
    ("script", "state"),
    [
        ("", "ESTABLISHED"),
        (ACTIVE_CLOSE, "FIN_WAIT_1"),
        (ACTIVE_CLOSE + "< . 1:1(0) ack 2 win 512", "FIN_WAIT_2"),
        ("< F. 1:1(0) ack 1 win 512\n> . 1:1(0) ack 2", "CLOSE_WAIT"),
        (ACTIVE_CLOSE + "< F. 1:1(0) ack 1 win 512\n> . 2:2(0) ack 2", "CLOSING"),
        ("< F. 1:1(0) ack 1 win 512\n> . 1:1(0) ack 2\nclose\n> F. 1:1(0) ack 2", "LAST_ACK"),
    ],
)
def test_reset_in_every_state(script: str, state: str) -> None:
    t = Script()(HANDSHAKE)(script)(f"state {state}")
    at = t.tcp.receiver.nxt - t.peer_initial
    t(f"< R {at}:{at}(0)\ngone\nquiet")
    assert t.tcp.error is (None if state in ("CLOSING", "LAST_ACK") else TcpError.RESET)


# TIME-WAIT

TO_TIME_WAIT = (
    HANDSHAKE
    + ACTIVE_CLOSE
    + """
    < F. 1:1(0) ack 2 win 512
    > . 2:2(0) ack 2
    state TIME_WAIT
"""
)


def test_time_wait_acknowledges_and_ends() -> None:
    t = Script()(TO_TIME_WAIT)("""
        < F. 1:1(0) ack 2 win 512
        > . 2:2(0) ack 2
        < P. 1:11(10) ack 2 win 512
        > . 2:2(0) ack 2
        +59
        < F. 1:1(0) ack 2 win 512           # begins again
        > . 2:2(0) ack 2
        +59
        < F. 1:1(0) ack 2 win 512
        > . 2:2(0) ack 2
        +61
        < F. 1:1(0) ack 2 win 512
        > R 2:2(0)
    """)
    assert t.table.deadline() is None


def test_time_wait_ignores_resets_that_are_not_exact() -> None:
    """RFC 1337."""
    t = Script()(TO_TIME_WAIT)("< R 1:1(0)\nquiet\n< R 300:300(0)\nquiet")
    assert len(t.table._time_wait) == 1
    t("< R 2:2(0)\nquiet")
    assert not t.table._time_wait


def test_time_wait_is_reused_by_a_newer_syn() -> None:
    t = Script()(TO_TIME_WAIT)
    old = t.tcp.sender.nxt
    t.inject("S 1:1(0) win 1000")
    t("> . 2:2(0) ack 2")  # not newer
    t.peer_initial = (t.peer_initial + 5) & 0xFFFFFFFF
    t.inject("S 0:0(0) win 1000 <mss 1460>")
    t.initial = None
    t("state PENDING\naccept\n> S. 0:0(0) ack 1\n< . 1:1(0) ack 1 win 512\nstate ESTABLISHED")
    assert (t.tcp.initial - old) & 0xFFFFFFFF == 0x10000


def test_time_wait_does_not_hinder_an_active_open() -> None:
    t = Script()(TO_TIME_WAIT)
    t.initial = None
    t("connect\n> S 0:0(0)")
    assert not t.table._time_wait


def test_time_wait_records_are_bounded() -> None:
    t = Script(TcpConfig(max_time_wait=2))
    for port in range(5):
        t.table._remember(LINK, bytes([port]), 1, 2, t.now)
    assert [key[1] for key in t.table._time_wait] == [b"\x03", b"\x04"]
