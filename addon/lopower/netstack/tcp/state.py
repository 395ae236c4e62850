"""The state machine of RFC 9293, 3.3.2, as tables.

Theory of operation. A connection moves for one of four reasons: the proxy asks (`CLOSE`), the peer
has sent everything (`FIN`), the peer has everything (`FIN_ACKED`), or the handshake is complete
(`ACKED`). Each reason is a table from the old state to the new one; a state that is missing stays
as it is. Errors and timeouts lead to CLOSED from anywhere and need no table.

PENDING stands for LISTEN after a SYN has come: nothing has been answered, because the proxy dials
the destination first. ``close()`` before the FIN can be sent (data is still buffered) moves at
once; the FIN has its sequence number right after the last byte.
"""

from __future__ import annotations

from enum import Enum
from typing import Final


class State(Enum):
    """RFC 9293's names, and PENDING: a SYN that the proxy has not answered yet."""

    PENDING = "pending"
    SYN_SENT = "syn-sent"
    SYN_RCVD = "syn-rcvd"
    ESTABLISHED = "established"
    FIN_WAIT_1 = "fin-wait-1"
    FIN_WAIT_2 = "fin-wait-2"
    CLOSE_WAIT = "close-wait"
    CLOSING = "closing"
    LAST_ACK = "last-ack"
    TIME_WAIT = "time-wait"
    CLOSED = "closed"


# Read once: an attribute of an Enum class is looked up through its metaclass.
PENDING: Final = State.PENDING
SYN_SENT: Final = State.SYN_SENT
SYN_RCVD: Final = State.SYN_RCVD
ESTABLISHED: Final = State.ESTABLISHED
FIN_WAIT_1: Final = State.FIN_WAIT_1
FIN_WAIT_2: Final = State.FIN_WAIT_2
CLOSE_WAIT: Final = State.CLOSE_WAIT
CLOSING: Final = State.CLOSING
LAST_ACK: Final = State.LAST_ACK
TIME_WAIT: Final = State.TIME_WAIT
CLOSED: Final = State.CLOSED

ACKED: Final = {SYN_RCVD: ESTABLISHED, SYN_SENT: ESTABLISHED}
CLOSE: Final = {
    SYN_RCVD: FIN_WAIT_1,
    ESTABLISHED: FIN_WAIT_1,
    CLOSE_WAIT: LAST_ACK,
}
FIN: Final = {
    ESTABLISHED: CLOSE_WAIT,
    FIN_WAIT_1: CLOSING,
    FIN_WAIT_2: TIME_WAIT,
}
FIN_ACKED: Final = {
    FIN_WAIT_1: FIN_WAIT_2,
    CLOSING: TIME_WAIT,
    LAST_ACK: CLOSED,
}

SYNCHRONIZED: Final = frozenset(
    (ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2, CLOSE_WAIT, CLOSING, LAST_ACK)
)
"""The handshake is complete."""
TAKES_DATA: Final = frozenset((ESTABLISHED, FIN_WAIT_1, FIN_WAIT_2))
"""The peer may still send data."""
WRITABLE: Final = frozenset((SYN_SENT, SYN_RCVD, ESTABLISHED, CLOSE_WAIT))
"""We may still send data."""


class TcpError(Enum):
    """Why a connection ended other than by FINs."""

    RESET = "connection reset by the peer"
    REFUSED = "connection refused"
    TIMED_OUT = "connection timed out"
    UNREACHABLE = "host unreachable"
    ABORTED = "connection aborted"
    LINK_DOWN = "device removed"
