"""What the stack tells the proxy. TCP's own event, `TcpRequest`, stands with TCP.

Addresses are packed bytes. `packet` is the whole packet as it came, for an ICMP error about it.
"""

from __future__ import annotations

from collections.abc import Hashable
from enum import Enum
from typing import NamedTuple

Address = tuple[bytes, int]


class Unreachable(Enum):
    """Why a packet is sent back; RFC 792 and RFC 4443 give each its codes."""

    NET = "net"
    HOST = "host"
    PROTOCOL = "protocol"
    PORT = "port"
    PROHIBITED = "prohibited"


class IcmpErrorKind(Enum):
    """What an ICMP error of either version says."""

    NET_UNREACHABLE = "net unreachable"
    HOST_UNREACHABLE = "host unreachable"
    PROTOCOL_UNREACHABLE = "protocol unreachable"
    PORT_UNREACHABLE = "port unreachable"
    PROHIBITED = "prohibited"
    TOO_BIG = "too big"
    TIME_EXCEEDED = "time exceeded"
    PARAMETER_PROBLEM = "parameter problem"


class UdpDatagram(NamedTuple):
    """A UDP datagram from a device."""

    link: Hashable
    source: bytes
    source_port: int
    destination: bytes
    destination_port: int
    payload: bytes
    packet: bytes


class EchoRequest(NamedTuple):
    """A ping from a device to an address that is not the gateway's own."""

    link: Hashable
    source: bytes
    destination: bytes
    identifier: int
    sequence: int
    payload: bytes
    packet: bytes


class IcmpError(NamedTuple):
    """An ICMP error from a device about a packet of one of its flows.

    `key` is the flow's, as in a packet from the device: `device` first, `remote` second.
    """

    link: Hashable
    kind: IcmpErrorKind
    protocol: int
    key: bytes
    device: Address
    remote: Address
    mtu: int
    """The next hop's, with `TOO_BIG`; 0 where the router is too old to tell."""
    sequence: int | None
    """The quoted TCP sequence number, which must be one in flight (RFC 5927, 4.1)."""
