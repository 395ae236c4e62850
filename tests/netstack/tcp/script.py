"""A small language for TCP tests, after packetdrill: the test plays the device, line by line.

    < S 0:0(0) win 65535 <mss 1460,sackOK,wscale 7>     the device sends this
    accept                                              the proxy does this
    > S. 0:0(0) ack 1 <mss 1240,sackOK,wscale 7>        this must be sent now, and nothing before it
    +0.2                                                the clock goes on; timers run
    quiet                                               nothing is sent

Sequence numbers are relative, 0 being each side's SYN. Flags are S, F, R, P and `.` for ACK; a
PSH that is sent need not be written. `>>` takes adjacent data segments together. Proxy: accept,
refuse, ignore, connect, write N, read N, close, release, abort. Checks: readable N, eof, state S,
error E, quiet, alive, gone. Data is a pattern of the sequence number, so what is read or sent is
always compared.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from lopower.netstack.events import IcmpError, IcmpErrorKind
from lopower.netstack.ip import TCP, build_header, parse
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.connection import TcpConnection
from lopower.netstack.tcp.sequence import MASK
from lopower.netstack.tcp.state import State, TcpError
from lopower.netstack.tcp.table import TcpTable
from lopower.netstack.tcp.wire import (
    MAXIMUM_SEGMENT_SIZE,
    SACK,
    SACK_PERMITTED,
    WINDOW_SCALE,
    Segment,
    make_path,
    parse_sack,
    parse_segment,
    reverse,
)
from tests.netstack.tcp.pair import DEVICE_V4, DEVICE_V6, HOST_V4, HOST_V6, LINK, Wire

PEER_INITIAL = 0xFFFFF000  # so that the device's numbers wrap in every longer test
FLAGS = {"F": 1, "S": 2, "R": 4, "P": 8, ".": 16}

_SEGMENT = re.compile(
    r"(?P<flags>[SFRP.]+) (?P<start>-?\d+):(?P<end>-?\d+)\((?P<length>\d+)\)"
    r"(?: ack (?P<ack>-?\d+))?(?: win (?P<win>\d+))?(?: <(?P<options>[^>]*)>)?$"
)

_PATTERN = bytes((i * 7 + (i >> 8)) & 0xFF for i in range(1 << 16))

HANDSHAKE = """
    < S 0:0(0) win 65535 <mss 1460,sackOK,wscale 7>
    accept
    > S. 0:0(0) ack 1 win 65535 <mss 1240,sackOK,wscale 7>
    < . 1:1(0) ack 1 win 512
    state ESTABLISHED
"""
WITHOUT_OPTIONS = """
    < S 0:0(0) win 65535 <mss 1460>
    accept
    > S. 0:0(0) ack 1 win 65535 <mss 1240>
    < . 1:1(0) ack 1 win 65535
"""


def pattern(start: int, count: int) -> bytes:
    """The bytes that always stand at relative sequence numbers from `start` on."""
    at = start & 0xFFFF
    return (_PATTERN * (1 + (at + count >> 16)))[at : at + count]


class Script:
    """One table under test, and the lines that are played to it."""

    def __init__(
        self, config: TcpConfig | None = None, *, v6: bool = False, ack_delay: float = 0.0
    ) -> None:
        self.now = 5000.0
        config = replace(config or TcpConfig(), ack_delay=ack_delay)
        self.table = TcpTable(config, random=lambda n: bytes(range(n)))
        self.wire = Wire()
        self.host, self.device = (HOST_V6, DEVICE_V6) if v6 else (HOST_V4, DEVICE_V4)
        ports = self.device[1].to_bytes(2) + self.host[1].to_bytes(2)
        self.key = self.device[0] + self.host[0] + ports
        self.path = make_path(reverse(self.key))
        self.sent: list[Segment] = []
        self.connection: TcpConnection | None = None
        self.initial: int | None = None  # ours
        self.peer_initial = PEER_INITIAL
        self.written = self.taken = 1
        self.lines = 0

    def __call__(self, script: str) -> Script:
        for line in script.strip().splitlines():
            text = line.split("#")[0].strip()
            if text:
                try:
                    self._line(text)
                except AssertionError as error:
                    raise AssertionError(f"{text!r}: {error}") from error
        return self

    @property
    def tcp(self) -> TcpConnection:
        assert self.connection is not None
        return self.connection

    def _line(self, text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "<":
            self.inject(rest)
        elif word == ">":
            self.expect(rest)
        elif word == ">>":
            self.expect(rest, together=True)
        elif word.startswith("+"):
            self.wait(float(word))
        else:
            command: Callable[..., None] = getattr(self, f"do_{word}")
            command(*rest.split())

    # The device

    def inject(self, text: str) -> None:
        self.flush()
        packet = self.packet(text)
        ip = parse(packet)
        assert ip is not None
        self.table.receive(LINK, memoryview(packet), ip, self.now)
        for request in self.table.events():
            self.connection = request.connection

    def packet(self, text: str) -> bytes:
        fields = _SEGMENT.match(text)
        assert fields is not None, f"cannot read {text!r}"
        start, length = int(fields["start"]), int(fields["length"])
        flags = sum(FLAGS[letter] for letter in fields["flags"])
        ack = (self.initial or 0) + int(fields["ack"] or 0)
        options = self._options(fields["options"] or "")
        sequence = self.peer_initial + start
        window = int(fields["win"] or 0)
        payload = pattern(start, length)
        return self.path.build(sequence, ack, flags, window, options, payload)

    def _options(self, text: str) -> bytes:
        option = bytearray()
        for part in filter(None, text.split(",")):
            name, _, value = part.partition(" ")
            if name == "mss":
                option += bytes((MAXIMUM_SEGMENT_SIZE, 4)) + int(value).to_bytes(2)
            elif name == "sackOK":
                option += bytes((SACK_PERMITTED, 2))
            elif name == "wscale":
                option += bytes((WINDOW_SCALE, 3, int(value)))
            elif name == "sack":
                option += bytes((SACK, 2 + 8 * len(value.split())))
                for block in value.split():
                    for edge in block.split(":"):
                        option += ((self.initial or 0) + int(edge) & MASK).to_bytes(4)
            else:
                option += bytes.fromhex(value)  # raw
        return bytes(option) + bytes(-len(option) % 4)

    # What is sent

    def flush(self) -> None:
        self.table.take_ready()
        self.table.flush(self.now, self.wire)
        for item in self.wire.items:
            for packet in item if isinstance(item, list) else [item]:
                self._emitted(packet)
        self.wire.items.clear()

    def _emitted(self, packet: bytes) -> None:
        ip = parse(packet)
        assert ip is not None
        assert ip.total_length <= 1280
        assert ip.key == reverse(self.key)
        assert packet[:1] != b"\x45" or packet[6] == 0x40, "DF"
        segment = parse_segment(packet, ip.header_length, ip.total_length)
        assert segment is not None
        self.sent.append(segment)

    def expect(self, text: str, *, together: bool = False) -> None:
        self.flush()
        assert self.sent, "nothing was sent"
        fields = _SEGMENT.match(text)
        assert fields is not None, f"cannot read {text!r}"
        segment = self._together() if together else self.sent.pop(0)
        seen = self.describe(segment)
        flags = sum(FLAGS[letter] for letter in fields["flags"])
        if flags & 2 and self.initial is None:
            self.initial = segment.sequence
            seen = self.describe(segment)
        if not flags & 8:
            segment = segment._replace(flags=segment.flags & ~8)
        assert segment.flags == flags, seen
        assert len(segment.payload) == int(fields["length"]), seen
        self._expect_numbers(segment, fields, seen)
        if fields["win"] is not None:
            assert segment.window == int(fields["win"]), seen
        if fields["options"] is not None:
            assert self._describe_options(segment) == fields["options"], seen

    def _expect_numbers(self, segment: Segment, fields: re.Match[str], seen: str) -> None:
        start = int(fields["start"])
        if self.initial is None:
            assert segment.sequence == start & MASK, seen
        else:
            assert (segment.sequence - self.initial) & MASK == start & MASK, seen
        assert int(fields["end"]) - start == int(fields["length"]), "the line itself"
        assert bytes(segment.payload) == pattern(start, len(segment.payload)), "payload differs"
        if segment.flags & 16:
            base = self.peer_initial
            assert (segment.acknowledgment - base) & MASK == int(fields["ack"]) & MASK, seen

    def _together(self) -> Segment:
        first = self.sent.pop(0)
        payload = bytearray(first.payload)
        while self.sent and len(self.sent[0].payload):
            following = self.sent[0]
            if (first.sequence + len(payload)) & MASK != following.sequence:
                break
            payload += following.payload
            first = first._replace(flags=first.flags | following.flags)
            self.sent.pop(0)
        return first._replace(payload=bytes(payload))

    def describe(self, segment: Segment) -> str:
        letters = "".join(letter for letter, bit in FLAGS.items() if segment.flags & bit)
        start = (segment.sequence - (self.initial or 0)) & MASK
        ack = (segment.acknowledgment - self.peer_initial) & MASK
        count = len(segment.payload)
        options = self._describe_options(segment)
        return (
            f"sent {letters} {start}:{start + count}({count}) ack {ack} win {segment.window}"
            f" <{options}>"
        )

    def _describe_options(self, segment: Segment) -> str:
        options, parts, at = bytes(segment.options), [], 0
        while at < len(options):
            kind = options[at]
            if kind == 1:
                at += 1
                continue
            body = options[at + 2 : at + options[at + 1]]
            if kind == MAXIMUM_SEGMENT_SIZE:
                parts.append(f"mss {int.from_bytes(body)}")
            elif kind == SACK_PERMITTED:
                parts.append("sackOK")
            elif kind == WINDOW_SCALE:
                parts.append(f"wscale {body[0]}")
            at += options[at + 1]
        blocks = parse_sack(options)
        if blocks:
            base = self.peer_initial
            ranges = (f"{(a - base) & MASK}:{(b - base) & MASK}" for a, b in blocks)
            parts.append("sack " + " ".join(ranges))
        return ",".join(parts)

    # The clock

    def wait(self, seconds: float) -> None:
        self.flush()
        until = self.now + seconds
        for _ in range(10_000):
            at = self.table.deadline()
            if at is None or at > until + 1e-9:
                break
            self.now = max(at, self.now)
            self.table.handle_timer(self.now)
            self.flush()
        else:
            raise AssertionError("the timer spins")
        self.now = until

    # The proxy

    def do_accept(self) -> None:
        self.tcp.accept(self.now)

    def do_refuse(self) -> None:
        self.tcp.refuse(self.now)

    def do_ignore(self) -> None:
        self.tcp.ignore()

    def do_connect(self) -> None:
        self.connection = self.table.connect(LINK, self.host, self.device, self.now)

    def do_write(self, count: str) -> None:
        data = pattern(self.written, int(count))
        assert self.tcp.write(data, self.now) == len(data), "no space"
        self.written += len(data)

    def do_read(self, count: str) -> None:
        data = self.tcp.read(int(count))
        assert len(data) == int(count), f"{len(data)} bytes"
        assert data == pattern(self.taken, len(data))
        self.taken += len(data)

    def do_close(self) -> None:
        self.tcp.close(self.now)

    def do_release(self) -> None:
        self.tcp.release(self.now)

    def do_abort(self) -> None:
        self.tcp.abort(self.now)

    def do_icmp(self, kind: str, sequence: str, mtu: str = "0") -> None:
        number = (self.initial or 0) + int(sequence) & MASK
        error = IcmpError(
            LINK, IcmpErrorKind[kind], TCP, self.key, self.device, self.host, int(mtu), number
        )
        self.table.icmp_error(self.key, error)

    # Checks

    def do_quiet(self) -> None:
        self.flush()
        assert not self.sent, self.describe(self.sent[0])

    def do_readable(self, count: str) -> None:
        assert self.tcp.readable == int(count), self.tcp.readable

    def do_eof(self) -> None:
        assert self.tcp.eof

    def do_state(self, name: str) -> None:
        assert self.tcp.state is State[name], self.tcp.state.name

    def do_error(self, name: str) -> None:
        assert self.tcp.error is TcpError[name], self.tcp.error

    def do_alive(self) -> None:
        assert not self.tcp.closed, self.tcp.error

    def do_gone(self) -> None:
        assert self.tcp.closed
        assert not len(self.table)


def ip_packet(source: bytes, destination: bytes, segment: bytes) -> bytes:
    """A packet around raw bytes of TCP."""
    return build_header(source, destination, TCP, len(segment)) + segment
