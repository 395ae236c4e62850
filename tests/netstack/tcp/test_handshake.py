"""Opening a connection: RFC 9293, 3.5 and 3.10.7.2 to 3.10.7.4."""

from __future__ import annotations

import pytest

from lopower.netstack.ip import parse
from lopower.netstack.tcp.config import TcpConfig
from tests.netstack.tcp.pair import DEVICE_V4, HOST_V4, LINK
from tests.netstack.tcp.script import HANDSHAKE, Script

SYN = "< S 0:0(0) win 65535 <mss 1460,sackOK,wscale 7>"


def test_passive_open() -> None:
    t = Script()(HANDSHAKE)("quiet")
    assert t.tcp.established
    assert t.tcp.local == HOST_V4
    assert t.tcp.remote == DEVICE_V4


def test_passive_open_v6() -> None:
    t = Script(v6=True)(f"""
        {SYN}
        accept
        > S. 0:0(0) ack 1 win 65535 <mss 1220,sackOK,wscale 7>
        < . 1:1(0) ack 1 win 512
        write 1220
        > P. 1:1221(1220) ack 1
    """)
    assert t.tcp.local == t.host
    assert t.tcp.remote == t.device
    assert t.tcp.mss == 1220


def test_a_syn_is_not_answered_before_the_proxy_has_dialled() -> None:
    Script()(f"""
        {SYN}
        quiet
        +1
        {SYN}
        +2
        {SYN}
        quiet
        state PENDING
        accept
        > S. 0:0(0) ack 1
        quiet
    """)


def test_refuse() -> None:
    Script()(f"""
        {SYN}
        refuse
        > R. 0:0(0) ack 1 win 0
        gone
    """)


def test_ignore() -> None:
    Script()(f"""
        {SYN}
        ignore
        quiet
        gone
    """)


def test_close_and_abort_of_a_request_refuse_it() -> None:
    for verb in ("close", "abort"):
        Script()(f"{SYN}\n{verb}\n> R. 0:0(0) ack 1\ngone")


def test_the_device_gives_up_while_the_proxy_dials() -> None:
    Script()(f"{SYN}\n< R 1:1(0)\ngone\nerror RESET\nquiet")
    Script()(f"{SYN}\n< R 5:5(0)\nalive")


def test_the_device_starts_again_while_the_proxy_dials() -> None:
    t = Script()(SYN)
    t.peer_initial = 7
    t(f"{SYN}\naccept\n> S. 0:0(0) ack 1\n< . 1:1(0) ack 1 win 512\nstate ESTABLISHED")


def test_a_request_nobody_answers_ends() -> None:
    Script()(f"{SYN}\n+74\nalive\n+2\ngone\nerror TIMED_OUT\nquiet")


def test_syn_ack_is_repeated_and_given_up() -> None:
    Script()(f"""
        {SYN}
        accept
        > S. 0:0(0) ack 1
        +0.99
        quiet
        +0.02
        > S. 0:0(0) ack 1 win 65535 <mss 1240,sackOK,wscale 7>
        +2
        > S. 0:0(0) ack 1
        +4
        > S. 0:0(0) ack 1
        +8
        > S. 0:0(0) ack 1
        +15.9
        alive
        quiet
        +0.2
        gone
        error TIMED_OUT
    """)


def test_syn_ack_is_repeated_for_a_repeated_syn() -> None:
    Script()(f"""
        {SYN}
        accept
        > S. 0:0(0) ack 1
        {SYN}
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 512
        state ESTABLISHED
    """)


@pytest.mark.parametrize(
    ("offered", "answered"),
    [
        ("mss 1460", "mss 1240"),
        ("", "mss 1240"),
        ("mss 1460,sackOK", "mss 1240,sackOK"),
        ("mss 1460,wscale 0", "mss 1240,wscale 7"),
        ("mss 1460,raw 08", "mss 1240"),  # cut short
        ("mss 1460,raw 0100fe00", "mss 1240"),  # end of options
        ("raw 0801,sackOK", "mss 1240"),  # a length below 2
    ],
)
def test_only_what_was_offered_is_answered(offered: str, answered: str) -> None:
    Script()(f"< S 0:0(0) win 1000 <{offered}>\naccept\n> S. 0:0(0) ack 1 <{answered}>")


@pytest.mark.parametrize(("offered", "mss"), [("mss 1460", 1240), ("", 536), ("mss 1", 88)])
def test_the_smaller_mss_counts(offered: str, mss: int) -> None:
    Script()(f"""
        < S 0:0(0) win 65535 <{offered}>
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 65535
        write 5000
        > . 1:{mss + 1}({mss}) ack 1
    """)


def test_the_window_of_a_syn_is_not_scaled() -> None:
    Script()("""
        < S 0:0(0) win 2000 <mss 1000,wscale 7>
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 20
        write 9000
        >> P. 1:2001(2000) ack 1
        quiet
    """)


def test_data_and_fin_with_the_last_ack_of_the_handshake() -> None:
    Script()(f"""
        {SYN}
        accept
        > S. 0:0(0) ack 1
        < FP. 1:101(100) ack 1 win 512
        > . 1:1(0) ack 102
        state CLOSE_WAIT
        read 100
        eof
    """)


def test_a_wrong_ack_in_the_handshake_is_reset() -> None:
    Script()(f"""
        {SYN}
        accept
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 2 win 512
        > R 2:2(0)
        < . 1:1(0) ack 0 win 512
        > R 0:0(0)
        state SYN_RCVD
        < . 1:1(0) ack 1 win 512
        state ESTABLISHED
    """)


def test_an_ack_before_the_syn_ack_is_sent_establishes_nothing() -> None:
    Script()(f"{SYN}\naccept")
    t = Script()(SYN)
    t.tcp.accept(t.now)
    t.initial = t.tcp.initial
    packet = t.packet(". 1:1(0) ack 0 win 512")
    ip = parse(packet)
    assert ip is not None
    t.table.receive(LINK, memoryview(packet), ip, t.now)
    t("state SYN_RCVD")


def test_reset_in_the_handshake() -> None:
    Script()(f"{SYN}\naccept\n> S. 0:0(0) ack 1\n< R 1:1(0)\ngone\nerror REFUSED")


def test_close_before_the_handshake_is_complete() -> None:
    Script()(f"""
        {SYN}
        accept
        write 10
        close
        > S. 0:0(0) ack 1
        < . 1:1(0) ack 1 win 512
        > FP. 1:11(10) ack 1
        state FIN_WAIT_1
    """)


def test_abort_in_the_handshake() -> None:
    Script()(f"{SYN}\naccept\n> S. 0:0(0) ack 1\nabort\n> R. 1:1(0) ack 1\ngone\nerror ABORTED")


def test_accept_twice_and_too_late() -> None:
    t = Script()(f"{SYN}\naccept\naccept\n> S. 0:0(0) ack 1\nquiet\nabort")
    t.tcp.accept(t.now)
    t.tcp.refuse(t.now)
    t.tcp.ignore()
    t("> R. 1:1(0) ack 1\nquiet\ngone")


# Active open

ACTIVE = """
    connect
    > S 0:0(0) win 65535 <mss 1240,sackOK,wscale 7>
    < S. 0:0(0) ack 1 win 65535 <mss 1460,sackOK,wscale 7>
    > . 1:1(0) ack 1 win 512
    state ESTABLISHED
"""


def test_active_open() -> None:
    Script()(ACTIVE)("""
        write 10
        > P. 1:11(10) ack 1
        < P. 1:6(5) ack 11 win 512
        > . 11:11(0) ack 6
        read 5
    """)


def test_what_is_written_before_the_handshake_follows_it() -> None:
    Script()("""
        connect
        write 10
        > S 0:0(0)
        < S. 0:0(0) ack 1 win 65535 <mss 1460>
        > P. 1:11(10) ack 1
    """)


def test_a_syn_is_repeated_and_given_up() -> None:
    t = Script()("connect\n> S 0:0(0)")
    for wait in (1, 2, 4, 8, 16):
        t(f"+{wait - 0.01}\nquiet\n+0.01\n> S 0:0(0)")
    t("+31.9\nalive\n+0.2\ngone\nerror TIMED_OUT\nquiet")


def test_connection_refused() -> None:
    Script()("connect\n> S 0:0(0)\n< R. 0:0(0) ack 1\ngone\nerror REFUSED")


def test_a_reset_that_acknowledges_nothing_is_ignored() -> None:
    Script()("connect\n> S 0:0(0)\n< R 0:0(0)\nalive\n< R. 0:0(0) ack 7\nalive\nquiet")


def test_an_old_syn_ack_is_reset() -> None:
    Script()("""
        connect
        > S 0:0(0)
        < S. 0:0(0) ack 7 win 1000
        > R 7:7(0)
        < . 0:0(0) ack 1 win 1000
        state SYN_SENT
        quiet
    """)


def test_simultaneous_open() -> None:
    Script()("""
        connect
        > S 0:0(0)
        < S 0:0(0) win 1000 <mss 1000>
        > S. 0:0(0) ack 1 win 65535 <mss 1240>
        state SYN_RCVD
        < S. 0:0(0) ack 1 win 1000 <mss 1000>
        > . 1:1(0) ack 1
        state ESTABLISHED
        write 10
        > P. 1:11(10) ack 1
        < S. 0:0(0) ack 1 win 1000 <mss 1000>
        > . 11:11(0) ack 1
    """)


def test_close_and_abort_before_the_answer() -> None:
    Script()("connect\n> S 0:0(0)\nclose\ngone\nquiet")
    Script()("connect\n> S 0:0(0)\nabort\ngone\nerror ABORTED\nquiet")


@pytest.mark.parametrize(
    ("kind", "error"), [("PORT_UNREACHABLE", "REFUSED"), ("HOST_UNREACHABLE", "UNREACHABLE")]
)
def test_icmp_ends_an_active_open(kind: str, error: str) -> None:
    Script()(f"connect\n> S 0:0(0)\nicmp {kind} 0\ngone\nerror {error}")


def test_soft_icmp_is_the_reason_in_the_end() -> None:
    Script()("""
        connect
        > S 0:0(0)
        icmp TIME_EXCEEDED 5
        icmp TIME_EXCEEDED 0
        alive
        +70
        gone
        error UNREACHABLE
    """)


def test_an_initial_window_of_one_after_losing_two_syns() -> None:
    Script(TcpConfig())("""
        connect
        +3.5
        > S 0:0(0)
        > S 0:0(0)
        > S 0:0(0)
        < S. 0:0(0) ack 1 win 65535 <mss 1460>
        write 5000
        > . 1:1241(1240) ack 1
        quiet
    """)


def test_ports_are_chosen_and_kept_apart() -> None:
    t = Script()
    one = t.table.connect(LINK, (HOST_V4[0], 0), DEVICE_V4, t.now)
    assert 49152 <= one.local[1] <= 65535
    with pytest.raises(OSError, match="in use"):
        t.table.connect(LINK, one.local, DEVICE_V4, t.now)
    with pytest.raises(OSError, match="in use"):  # the same "random" port, again and again
        t.table.connect(LINK, (HOST_V4[0], 0), DEVICE_V4, t.now)
    crowded = Script(TcpConfig(max_connections=0))
    with pytest.raises(OSError, match="too many"):
        crowded.table.connect(LINK, HOST_V4, DEVICE_V4, t.now)
