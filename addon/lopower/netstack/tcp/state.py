"""The state machine of RFC 9293, 3.3.2, as tables.

Theory of operation. An established connection moves for one of three reasons: the proxy asks
(`CLOSE`), the peer has sent everything (`FIN`), or the peer has everything (`FIN_ACKED`). Each
reason is a table from the old state to the new one; a state that is missing stays as it is.
Errors and timeouts lead to CLOSED from anywhere and need no table.

PENDING stands for LISTEN after a SYN has come: nothing has been answered, because the proxy dials
the destination first. ``close()`` before the FIN can be sent (data is still buffered) moves at
once; the FIN has its sequence number right after the last byte.
"""

from __future__ import annotations

from enum import Enum, IntEnum, auto
from typing import Final


class State(IntEnum):
    """RFC 9293's names, and PENDING: a SYN that the proxy has not answered yet."""

    PENDING = auto()
    SYN_SENT = auto()
    SYN_RCVD = auto()
    ESTABLISHED = auto()
    FIN_WAIT_1 = auto()
    FIN_WAIT_2 = auto()
    CLOSE_WAIT = auto()
    CLOSING = auto()
    LAST_ACK = auto()
    TIME_WAIT = auto()
    CLOSED = auto()


# Read once: an attribute of an Enum class is looked up through its metaclass. Integers, because
# the hash of other Enum members is a Python function.
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

CLOSE: Final = {
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


RESET_ERRORS: Final = {
    SYN_RCVD: TcpError.REFUSED,
    CLOSING: None,
    LAST_ACK: None,
}
"""What a RST means where it is not just a reset: once both have closed, nothing (RFC 9293)."""
