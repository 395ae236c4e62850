"""The WireGuard protocol, both roles, without IO."""

from lopower.wireguard.burst import SealedBurst
from lopower.wireguard.drops import Drop
from lopower.wireguard.events import (
    ClockWrong,
    EndpointChanged,
    Event,
    HandshakeCompleted,
    HandshakeGaveUp,
    SessionExpired,
    UnknownPeer,
    WrongServerKey,
)
from lopower.wireguard.interface import Interface
from lopower.wireguard.peer import Peer

__all__ = [
    "ClockWrong",
    "Drop",
    "EndpointChanged",
    "Event",
    "HandshakeCompleted",
    "HandshakeGaveUp",
    "Interface",
    "Peer",
    "SealedBurst",
    "SessionExpired",
    "UnknownPeer",
    "WrongServerKey",
]
