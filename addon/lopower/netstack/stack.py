"""The stack: packets from the devices in, flows and events out, packets for the devices back.

It ends flows to any destination and forwards nothing. Packets are trusted to be whole (WireGuard
authenticated them), so checksums over data are not verified; lengths and IP headers are.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Hashable, Mapping
from functools import lru_cache
from itertools import pairwise
from struct import Struct

import numpy as np

from lopower.bursts import Matrix
from lopower.netstack import icmp, udp
from lopower.netstack.events import (
    Address,
    EchoRequest,
    IcmpError,
    IcmpErrorKind,
    UdpDatagram,
    Unreachable,
)
from lopower.netstack.fragments import Reassembler
from lopower.netstack.ip import (
    ICMP,
    ICMPV6,
    IPV4_HEADER,
    IPV6_HEADER,
    TCP,
    UDP,
    IpError,
    IpHeader,
    decode,
    is_martian,
    is_multicast,
    split,
)
from lopower.netstack.tcp.burst import Sink
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.table import TcpRequest, TcpTable

__all__ = [
    "EchoRequest",
    "Event",
    "IcmpError",
    "IcmpErrorKind",
    "Sink",
    "Stack",
    "TcpConnection",
    "TcpRequest",
    "UdpDatagram",
    "Unreachable",
]

_OwnEvent = UdpDatagram | EchoRequest | IcmpError
Event = TcpRequest | _OwnEvent

MTU = 1280  # of the tunnel: what IPv6 asks for and every path carries with WireGuard around it

# Both are emptied once per wake-up, which brings no more than a few receive buffers of packets:
# some ten megabytes at the very worst.
MAX_EVENTS = 4096
MAX_QUEUED_PACKETS = 8192

# A burst of several flows is sorted if it is long enough, and gives each a few packets.
MIN_MIXED_BURST = 8
MIN_FLOW_ROWS = 2

# Pairs of addresses seen lately and found in order; a flood of others only costs the look.
MAX_KNOWN_PAIRS = 4096

# Below this many, looking at UDP datagrams one by one is the faster way (measured).
MIN_UDP_BURST = 12

_UDP_V4 = Struct("!BxHxxHxBxx4s4sHHH").unpack_from
_V4_HEADERS = IPV4_HEADER + udp.HEADER
_V6_LOOPBACK = bytes(15) + b"\x01"

# The first octets that make an IPv4 address special in any way: a closer look is needed.
_SPECIAL = bytes(first in (0, 127, 169) or first >= 224 for first in range(256))

# Which bits of a burst's headers, addresses and ports included, are the same in every packet of a
# flow. IPv4: not the type of service, identification, DF, time to live and checksum.
_V4_SAME = np.frombuffer(
    bytes.fromhex("ff00ffff 0000bfff 00ff0000 ffffffff ffffffff ffffffff"), np.uint32
)
# IPv6: not the traffic class, flow label and hop limit.
_V6_SAME = np.frombuffer(bytes.fromhex("f0000000 ffffff00" + "ffffffff" * 9), np.uint32)
_MODULUS = np.uint64(65535)
_V4_HEADER_WORDS = IPV4_HEADER // 4


class Stack:
    """One netstack for all devices. `local_addresses` are the gateway's own."""

    def __init__(
        self,
        local_addresses: Collection[bytes] = (),
        *,
        broadcast_addresses: Collection[bytes] = (),
        mtu: int = MTU,
        random: Callable[[int], bytes] = os.urandom,
        tcp: TcpTable | None = None,
        loopback: bool = False,
    ) -> None:
        """`loopback`: let packets come from loopback addresses, as they do on a test bench."""
        self._loopback = loopback
        self._local = frozenset(local_addresses)
        self._gateways = {len(address): address for address in reversed([*local_addresses])}
        self._broadcasts = frozenset(broadcast_addresses)
        self._mtu = mtu
        self._identification = int.from_bytes(random(4))
        self._drops: Counter[str] = Counter()
        self._events: list[_OwnEvent] = []
        self._outgoing: list[tuple[Hashable, bytes]] = []
        self._errors = icmp.TokenBucket()
        self._fragments = Reassembler(self._drops)
        self._verdict = lru_cache(MAX_KNOWN_PAIRS)(self._judge)
        self.tcp = tcp or TcpTable(TcpConfig(mtu=mtu), random=random)

    @property
    def drops(self) -> Mapping[str, int]:
        """How many packets were dropped, by reason."""
        return self._drops

    def receive(self, link: Hashable, packet: memoryview, now: float) -> None:
        """Take one packet from `link`; bytes after it are padding."""
        if len(packet) >= _V4_HEADERS and packet[9] == UDP and self._receive_udp_v4(link, packet):
            return
        try:
            ip = decode(packet)
        except IpError as error:
            self._refuse(link, packet, error, now)
            return
        reason = self._verdict(ip.source, ip.destination)
        if reason is not None:
            self._drops[reason] += 1
        elif ip.fragment is not None:
            self._receive_fragment(link, packet, ip, now)
        else:
            self._deliver(link, packet, ip, now)

    def _receive_udp_v4(self, link: Hashable, packet: memoryview) -> bool:
        """Take the most frequent kind of packet in the fewest steps; `False`: look closer."""
        first, total, flags, protocol, source, destination, source_port, port, length = _UDP_V4(
            packet
        )
        if (
            first != 0x45
            or protocol != UDP
            or flags & 0x3FFF
            or length != total - 20
            or length < 8
            or total > len(packet)
            or not port
            or _SPECIAL[source[0]]
            or _SPECIAL[destination[0]]
            or source == destination
            or destination in self._broadcasts
            or int.from_bytes(packet[:20]) % 65535
            or len(self._events) >= MAX_EVENTS
        ):
            return False
        whole = bytes(packet[:total])
        self._events.append(
            UdpDatagram(link, source, source_port, destination, port, whole[28:], whole)
        )
        return True

    def _judge(self, source: bytes, destination: bytes) -> str | None:
        """Why packets between these addresses are dropped, `None` if they are not.

        Which unicast destinations a device may reach, loopback included, is the policy's business.
        """
        if is_multicast(destination) or destination in self._broadcasts:
            return "multicast"
        if source == destination or (is_martian(source) and not self._is_loopback(source)):
            return "martian"
        return None

    def _is_loopback(self, source: bytes) -> bool:
        return self._loopback and (source[0] == 127 or source == _V6_LOOPBACK)

    def _refuse(self, link: Hashable, packet: memoryview, error: IpError, now: float) -> None:
        self._drops[error.reason] += 1
        if error.problem is not None and self._errors.take(now):
            gateway = self._gateways.get(16)
            self._queue(link, icmp.parameter_problem(packet, error.problem, gateway))

    def _receive_fragment(
        self, link: Hashable, packet: memoryview, ip: IpHeader, now: float
    ) -> None:
        try:
            whole = self._fragments.add(link, packet, ip, now)
        except IpError as error:
            self._refuse(link, packet, error, now)
            return
        if whole is not None:
            self.receive(link, memoryview(whole), now)

    def _deliver(self, link: Hashable, packet: memoryview, ip: IpHeader, now: float) -> None:
        protocol = ip.protocol
        if len(packet) != ip.total_length:
            packet = packet[: ip.total_length]
        if protocol == TCP:
            self.tcp.receive(link, packet, ip, now)
        elif protocol == UDP:
            self._receive_udp(link, packet, ip)
        elif protocol == (ICMP if ip.version == 4 else ICMPV6):
            self._receive_icmp(link, packet, ip)
        else:
            self._drops["unknown protocol"] += 1
            self.send_unreachable(link, packet, Unreachable.PROTOCOL, now)

    def _receive_udp(self, link: Hashable, packet: memoryview, ip: IpHeader) -> None:
        at = ip.header_length
        size = len(packet) - at
        if size < udp.HEADER or int.from_bytes(packet[at + 4 : at + 6]) != size:
            self._drops["udp length"] += 1
            return
        source_port = int.from_bytes(packet[at : at + 2])
        port = int.from_bytes(packet[at + 2 : at + 4])
        if not port:
            self._drops["udp port"] += 1
            return
        whole = bytes(packet)
        payload = whole[at + 8 :]
        self._tell(UdpDatagram(link, ip.source, source_port, ip.destination, port, payload, whole))

    def _receive_icmp(self, link: Hashable, packet: memoryview, ip: IpHeader) -> None:
        if len(packet) < ip.header_length + icmp.HEADER:
            self._drops["icmp length"] += 1
            return
        kind = packet[ip.header_length]
        if kind == (icmp.ECHO_REQUEST if ip.version == 4 else icmp.V6_ECHO_REQUEST):
            self._receive_echo(icmp.parse_echo(link, packet, ip))
            return
        error = icmp.parse_error(link, packet, ip)
        if error is not None:
            self._receive_icmp_error(error)
        elif ip.version == 6 and kind in icmp.V6_LINK_LOCAL_TYPES:
            self._drops["neighbour discovery"] += 1
        else:
            self._drops["icmp"] += 1

    def _receive_echo(self, request: EchoRequest) -> None:
        if request.destination in self._local:
            self.send_echo_reply(request)
        else:
            self._tell(request)

    def _receive_icmp_error(self, error: IcmpError) -> None:
        if error.protocol == TCP:
            self.tcp.icmp_error(error.key, error)
        else:
            self._tell(error)

    def _tell(self, event: _OwnEvent) -> None:
        if len(self._events) < MAX_EVENTS:
            self._events.append(event)
        else:
            self._drops["event limit"] += 1

    def receive_burst(self, link: Hashable, packets: Matrix, now: float) -> bool:
        """Take a burst of one TCP or UDP flow, or of several; `False`: nothing has changed."""
        count, width = packets.shape
        if count < 2 or width < IPV4_HEADER:
            return False
        if self._receive_flow(link, packets, now):
            return True
        if count < MIN_MIXED_BURST:
            return False
        return self._receive_flows(link, packets, now)

    def _receive_flow(self, link: Hashable, packets: Matrix, now: float) -> bool:
        protocol_at = 9 if packets[0, 0] >> 4 == 4 else 6
        if len(packets) < MIN_UDP_BURST and packets[0, protocol_at] == UDP:
            return False
        ip = self._uniform(packets)
        if ip is None:
            return False
        if ip.protocol == TCP:
            header_length, total = ip.header_length, ip.total_length
            return self.tcp.receive_burst(link, ip.key, packets, header_length, total, now)
        return self._receive_udp_burst(link, packets, ip)

    def _receive_flows(self, link: Hashable, packets: Matrix, now: float) -> bool:
        """Sort segments by ports; each flow keeps its order, and is taken whole or one by one."""
        plain_v4 = packets[0, 0] == 0x45
        at, protocol_at = (IPV4_HEADER, 9) if plain_v4 else (IPV6_HEADER, 6)
        if packets.shape[1] < at + 4:
            return False
        heads = packets[:, [0, protocol_at]]
        if packets[0, protocol_at] != TCP or (heads[:, 1] != TCP).any():
            return False
        if plain_v4 and (heads[:, 0] != 0x45).any():
            return False
        ports = packets[:, at : at + 4].view(np.uint32)[:, 0]
        order = np.argsort(ports, kind="stable")
        ports = ports[order]
        starts = [0, *(np.flatnonzero(ports[1:] != ports[:-1]) + 1).tolist(), len(packets)]
        if len(starts) == 2 or len(packets) < MIN_FLOW_ROWS * (len(starts) - 1):
            return False
        packets = packets[order]
        for start, end in pairwise(starts):
            flow = packets[start:end]
            if end - start < 2 or not self._receive_flow(link, flow, now):
                for packet in flow:
                    self.receive(link, packet.data, now)
        return True

    def _uniform(self, packets: Matrix) -> IpHeader | None:
        """The first packet's header if it is good, plain, and that of all rows."""
        try:
            ip = decode(packets[0].data)
        except IpError:
            return None
        transport = len(ip.key) - 2 * len(ip.source)  # 0 without ports
        if ip.fragment is not None or not transport:
            return None
        if self._verdict(ip.source, ip.destination) is not None:
            return None
        if ip.version == 4:
            width, same, plain = 24, _V4_SAME, ip.header_length == IPV4_HEADER
        else:
            width, same, plain = 44, _V6_SAME, ip.header_length == IPV6_HEADER
        if not plain:
            return None
        words = packets[:, :width].view(np.uint32)
        fixed = (words & same).tobytes()
        if fixed != fixed[:width] * len(packets):
            return None
        if ip.version == 4:
            # As in `checksum`: zero modulo 65535 in one byte order is zero in the other.
            sums = words[:, :_V4_HEADER_WORDS].sum(axis=1, dtype=np.uint64)
            if np.count_nonzero(sums % _MODULUS):
                return None
        return ip

    def _receive_udp_burst(self, link: Hashable, packets: Matrix, ip: IpHeader) -> bool:
        at, total = ip.header_length, ip.total_length
        if total < at + udp.HEADER or len(self._events) + len(packets) > MAX_EVENTS:
            return False
        ports = int.from_bytes(ip.key[-4:])
        source_port, port = ports >> 16, ports & 0xFFFF
        lengths = packets[:, at + 4 : at + 6]
        if not port or (lengths != ((total - at) >> 8, (total - at) & 255)).any():
            return False
        source, destination, start = ip.source, ip.destination, at + udp.HEADER
        wholes = packets[:, :total].tobytes()
        append = self._events.append
        for i in range(0, len(wholes), total):
            whole = wholes[i : i + total]
            append(UdpDatagram(link, source, source_port, destination, port, whole[start:], whole))
        return True

    def events(self) -> list[Event]:
        """What has happened since the last call."""
        events, self._events = self._events, []
        return [*events, *self.tcp.events()]

    def take_ready(self) -> Collection[TcpConnection]:
        """The connections that have become readable, writable or closed since the last call."""
        return self.tcp.take_ready()

    def connect(
        self, link: Hashable, source: Address, destination: Address, now: float
    ) -> TcpConnection:
        """Open a connection to a device, in the name of `source`."""
        return self.tcp.connect(link, source, destination, now)

    def send_udp(
        self,
        link: Hashable,
        source: Address,
        destination: Address,
        payload: bytes | bytearray | memoryview,
        now: float,
        *,
        fragment: bool,
    ) -> None:
        """Queue a datagram; one that is too long for the tunnel needs leave to be fragmented."""
        if len(payload) > udp.MAX_PAYLOAD:
            self._drops["udp too long"] += 1
            return
        packet = udp.build(source, destination, payload)
        if len(packet) <= self._mtu:
            if len(self._outgoing) < MAX_QUEUED_PACKETS:
                self._outgoing.append((link, packet))
            else:
                self._drops["queue limit"] += 1
        elif fragment:
            self._queue_fragments(link, packet)
        else:
            self._drops["udp needs fragments"] += 1

    def send_echo_reply(self, request: EchoRequest) -> None:
        """Answer a ping, in the name of the address that was asked."""
        packet = icmp.echo_reply(request)
        if len(packet) <= self._mtu:
            self._queue(request.link, packet)
        else:
            self._queue_fragments(request.link, packet)

    def send_unreachable(
        self, link: Hashable, original: bytes | memoryview, reason: Unreachable, now: float
    ) -> None:
        """Queue an ICMP error about `original`, if there may be one and not too many have gone."""
        if not self._errors.take(now):
            self._drops["icmp error rate"] += 1
            return
        self._queue(link, icmp.unreachable(original, reason, self._gateway_for(original)))

    def _gateway_for(self, packet: bytes | memoryview) -> bytes | None:
        """The gateway's own address of the packet's version, if it has one."""
        is_v4 = len(packet) and packet[0] >> 4 == 4
        return self._gateways.get(4 if is_v4 else 16)

    def _queue(self, link: Hashable, packet: bytes | None) -> None:
        if packet is None:
            self._drops["icmp error not allowed"] += 1
        elif len(self._outgoing) < MAX_QUEUED_PACKETS:
            self._outgoing.append((link, packet))
        else:
            self._drops["queue limit"] += 1

    def _queue_fragments(self, link: Hashable, packet: bytes) -> None:
        self._identification += 1
        for piece in split(packet, self._identification, self._mtu):
            self._queue(link, piece)

    def drop_link(self, link: Hashable) -> None:
        """Forget a device: its flows, fragments, and what is queued from and for it."""
        self._fragments.drop_link(link)
        self._events = [event for event in self._events if event.link != link]
        self._outgoing = [item for item in self._outgoing if item[0] != link]
        self.tcp.drop_link(link)

    def flush(self, now: float, sink: Sink) -> None:
        """Hand `sink` all that is to be sent."""
        if self._outgoing:
            outgoing, self._outgoing = self._outgoing, []
            emit = sink.packet
            for link, packet in outgoing:
                emit(link, packet)
        self.tcp.flush(now, sink)

    def deadline(self) -> float | None:
        """When `handle_timer` is due."""
        ours, theirs = self._fragments.deadline(), self.tcp.deadline()
        if ours is None or theirs is None:
            return theirs if ours is None else ours
        return min(ours, theirs)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        for link, first in self._fragments.expire(now):
            if first and self._errors.take(now):
                self._queue(link, icmp.reassembly_timeout(first, self._gateway_for(first)))
        self.tcp.handle_timer(now)
