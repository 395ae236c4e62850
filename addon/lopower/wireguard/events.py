"""What a WireGuard interface tells its owner."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lopower.endpoint import Endpoint
    from lopower.wireguard.peer import Peer


@dataclass(frozen=True, slots=True)
class HandshakeCompleted:
    """A session is confirmed by both sides."""

    peer: Peer
    initiator: bool  # whether we were
    clock_offset: float | None  # the peer's clock less ours in seconds; None as initiator


@dataclass(frozen=True, slots=True)
class EndpointChanged:
    """An authenticated packet came from a new outer address."""

    peer: Peer
    endpoint: Endpoint
    previous: Endpoint | None


@dataclass(frozen=True, slots=True)
class SessionExpired:
    """The last session is too old to be used, and there is no newer one."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class HandshakeGaveUp:
    """The peer has not answered for REKEY_ATTEMPT_TIME; what was staged for it is dropped."""

    peer: Peer


@dataclass(frozen=True, slots=True)
class ClockWrong:
    """An authentic initiation was stamped far from our time, or not after the one before."""

    peer: Peer
    offset: float  # the peer's clock less ours, in seconds
    accepted: bool


@dataclass(frozen=True, slots=True)
class UnknownPeer:
    """An authentic initiation by a public key that is not among the peers."""

    public_key: bytes
    source: Endpoint


@dataclass(frozen=True, slots=True)
class WrongServerKey:
    """Initiations whose mac1 is not for our public key: the device has another server's key."""

    source: Endpoint
    count: int


Event = (
    HandshakeCompleted
    | EndpointChanged
    | SessionExpired
    | HandshakeGaveUp
    | ClockWrong
    | UnknownPeer
    | WrongServerKey
)
