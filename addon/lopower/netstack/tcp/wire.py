"""TCP segments as bytes (RFC 9293, 3.1), and the packets that carry ours."""

from __future__ import annotations

from functools import cache
from struct import Struct
from typing import NamedTuple

from lopower.netstack.checksum import ones_sum
from lopower.netstack.tcp.sequence import MASK

FIN = 0x01
SYN = 0x02
RST = 0x04
PSH = 0x08
ACK = 0x10

HEADER = 20

END_OF_OPTIONS = 0
NO_OPERATION = 1
MAXIMUM_SEGMENT_SIZE = 2
WINDOW_SCALE = 3
SACK_PERMITTED = 4
SACK = 5

MAX_SHIFT = 14  # RFC 7323, 2.3
DEFAULT_MSS = 536  # RFC 9293, 3.7.1
MIN_MSS = 88
"""Below this a peer only wants to see many packets (Linux: TCP_MIN_SND_MSS, 48 with options)."""

_FIELDS = Struct("!IIBBH")

Buffer = bytes | bytearray | memoryview


class Segment(NamedTuple):
    """A received segment; `options` and `payload` may be views into the packet."""

    sequence: int
    acknowledgment: int
    flags: int
    window: int
    options: Buffer
    payload: Buffer


class Offer(NamedTuple):
    """What a SYN offers."""

    mss: int
    shift: int | None
    sack: bool
    window: int


def parse_segment(packet: Buffer, at: int, end: int) -> Segment | None:
    """The segment at `packet[at:end]`; `None` when its header does not fit."""
    if end - at < HEADER:
        return None
    sequence, acknowledgment, offset, flags, window = _FIELDS.unpack_from(packet, at + 4)
    if offset & 0xF0 == 0x50:
        at += HEADER
        return Segment(sequence, acknowledgment, flags, window, b"", packet[at:end])
    data = at + ((offset >> 4) << 2)
    if data > end or data < at + HEADER:
        return None
    options = packet[at + HEADER : data]
    return Segment(sequence, acknowledgment, flags, window, options, packet[data:end])


def parse_offer(segment: Segment) -> Offer:
    """The window and options of a SYN; what is malformed counts as absent."""
    mss, shift, sack = DEFAULT_MSS, None, False
    for kind, body in _walk(segment.options):
        if kind == MAXIMUM_SEGMENT_SIZE and len(body) == 2:
            mss = max(int.from_bytes(body), MIN_MSS)
        elif kind == WINDOW_SCALE and len(body) == 1:
            shift = min(body[0], MAX_SHIFT)
        elif kind == SACK_PERMITTED:
            sack = True
    return Offer(mss, shift, sack, segment.window)


def parse_sack(options: Buffer) -> list[tuple[int, int]]:
    """The SACK blocks (RFC 2018), as they stand on the wire."""
    blocks: list[tuple[int, int]] = []
    for kind, body in _walk(options):
        if kind == SACK and not len(body) & 7:
            edges = [int.from_bytes(body[i : i + 4]) for i in range(0, len(body), 4)]
            blocks += zip(edges[::2], edges[1::2], strict=True)
    return blocks


def _walk(options: Buffer) -> list[tuple[int, bytes]]:
    found: list[tuple[int, bytes]] = []
    options = bytes(options)
    at, end = 0, len(options)
    while at < end:
        kind = options[at]
        if kind == NO_OPERATION:
            at += 1
            continue
        if kind == END_OF_OPTIONS or at + 1 >= end:
            break
        length = options[at + 1]
        if length < 2 or at + length > end:
            break
        found.append((kind, options[at + 2 : at + length]))
        at += length
    return found


@cache
def syn_options(mss: int, shift: int | None, sack: bool) -> bytes:
    """The options of our SYN or SYN-ACK, padded to four bytes."""
    options = bytes((MAXIMUM_SEGMENT_SIZE, 4)) + mss.to_bytes(2)
    if sack:
        options += bytes((NO_OPERATION, NO_OPERATION, SACK_PERMITTED, 2))
    if shift is not None:
        options += bytes((NO_OPERATION, WINDOW_SCALE, 3, shift))
    return options


def sack_option(blocks: list[tuple[int, int]]) -> bytes:
    """A SACK option with up to four blocks, padded to four bytes."""
    option = bytearray((NO_OPERATION, NO_OPERATION, SACK, 2 + 8 * len(blocks)))
    for start, end in blocks:
        option += ((start & MASK) << 32 | (end & MASK)).to_bytes(8)
    return bytes(option)


def _pack_sum(data: bytes) -> int:
    return int.from_bytes(data) % 65535


def reverse(key: bytes) -> bytes:
    """The flow key of the other direction."""
    if len(key) == 12:
        return key[4:8] + key[:4] + key[10:12] + key[8:10]
    return key[16:32] + key[:16] + key[34:36] + key[32:34]


class Ipv4Path:
    """What is constant in the headers of a connection's IPv4 packets, summed once.

    The identification is 0: nothing here is ever fragmented (RFC 6864, 4.1).
    """

    __slots__ = ("_constant", "_ip_sum", "_tcp_sum")

    version = 4
    header = 40

    _pack = Struct("!HHHHHH12sIIHHHH").pack

    def __init__(self, key: bytes) -> None:
        self._constant = reverse(key)
        self._ip_sum = 0x4500 + 0x4000 + 0x4006 + _pack_sum(key[:8])
        self._tcp_sum = _pack_sum(key) + 6

    def build(
        self,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        options: bytes = b"",
        payload: Buffer = b"",
    ) -> bytes:
        """A whole packet."""
        sequence &= MASK
        acknowledgment &= MASK
        header = 20 + len(options)
        length = header + len(payload)
        word = (header << 10) | flags
        total = self._tcp_sum + length + sequence + acknowledgment + word + window
        if options:
            total += _pack_sum(options)
        if payload:
            total += ones_sum(payload)
        length += 20
        packet: bytes = self._pack(
            0x4500,
            length,
            0,
            0x4000,
            0x4006,
            65535 - (self._ip_sum + length) % 65535,
            self._constant,
            sequence,
            acknowledgment,
            word,
            window,
            65535 - total % 65535,
            0,
        )
        if options or payload:
            return b"".join((packet, options, payload))
        return packet

    def template(self, acknowledgment: int, window: int, length: int) -> bytes:
        """Headers for packets of `length` bytes; sequence number and TCP checksum are 0."""
        template: bytes = self._pack(
            0x4500,
            length,
            0,
            0x4000,
            0x4006,
            65535 - (self._ip_sum + length) % 65535,
            self._constant,
            0,
            acknowledgment & MASK,
            0x5000 | ACK,
            window,
            0,
            0,
        )
        return template

    def sum_beside_packet(self, length: int) -> int:
        """What the TCP checksum covers beyond the packet: a valid IP header sums to 0."""
        addresses = self._ip_sum - (0x4500 + 0x4000 + 0x4006)
        return addresses + 6 + length - 20


class Ipv6Path:
    """What is constant in the headers of a connection's IPv6 packets, summed once."""

    __slots__ = ("_constant", "_tcp_sum")

    version = 6
    header = 60

    # The flow label is 0: ESP32 libraries read a length from these bytes.
    _pack = Struct("!IHH36sIIHHHH").pack

    def __init__(self, key: bytes) -> None:
        self._constant = reverse(key)
        self._tcp_sum = _pack_sum(key) + 6

    def build(
        self,
        sequence: int,
        acknowledgment: int,
        flags: int,
        window: int,
        options: bytes = b"",
        payload: Buffer = b"",
    ) -> bytes:
        """A whole packet."""
        sequence &= MASK
        acknowledgment &= MASK
        header = 20 + len(options)
        length = header + len(payload)
        word = (header << 10) | flags
        total = self._tcp_sum + length + sequence + acknowledgment + word + window
        if options:
            total += _pack_sum(options)
        if payload:
            total += ones_sum(payload)
        packet: bytes = self._pack(
            0x60000000,
            length,
            0x0640,
            self._constant,
            sequence,
            acknowledgment,
            word,
            window,
            65535 - total % 65535,
            0,
        )
        if options or payload:
            return b"".join((packet, options, payload))
        return packet

    def template(self, acknowledgment: int, window: int, length: int) -> bytes:
        """Headers for packets of `length` bytes; sequence and checksum are 0."""
        template: bytes = self._pack(
            0x60000000,
            length - 40,
            0x0640,
            self._constant,
            0,
            acknowledgment & MASK,
            0x5000 | ACK,
            window,
            0,
            0,
        )
        return template

    def sum_beside_packet(self, length: int) -> int:
        """What the TCP checksum covers beyond the packet's own sum, and what it does not."""
        # The packet holds addresses and length already; version and next header do not count.
        return 6 - 0x6000 - 0x0640


Path = Ipv4Path | Ipv6Path


def make_path(key: bytes) -> Path:
    """The path back to the device whose packets have the flow key `key`."""
    return Ipv4Path(key) if len(key) == 12 else Ipv6Path(key)
