"""Our packets and Linux's answers to them, as `record_kernel.py` captured them.

That there is an answer says that Linux found our checksums, lengths and fragments right; what it
answers is what we answer in its place.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from lopower.netstack import icmp, ip, udp
from lopower.netstack.events import EchoRequest, Unreachable
from lopower.netstack.fragments import Reassembler
from lopower.netstack.ip import ICMP, ICMPV6, TCP, UDP, IpError

CAPTURE = Path(__file__).parent / "data" / "kernel.pcap"
KERNEL = {4: bytes([10, 90, 0, 1]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x01"}
DEVICE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
PAYLOADS = (b"", b"a", bytes(range(256)), bytes(i * 7 & 255 for i in range(4001)))
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def records() -> Iterator[bytes]:
    data = CAPTURE.read_bytes()
    at = 24
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at + 8)
        yield data[at + 16 : at + 16 + length]
        at += 16 + length


PACKETS = list(records())


def is_ours(packet: bytes) -> bool:
    return packet[12:16] == DEVICE[4] or packet[8:24] == DEVICE[6]


def whole_packets() -> list[bytes]:
    """The capture with its fragments put together."""
    reassembler, wholes = Reassembler(Counter()), []
    for packet in PACKETS:
        header = ip.parse(packet)
        whole: bytes | None = packet
        if header is not None and header.fragment is not None:
            try:
                whole = reassembler.add("tun", packet, header, 0.0)
            except IpError:
                pass
        if whole is not None:
            wholes.append(whole)
    return wholes


WHOLES = whole_packets()


def answer(packet: bytes) -> bytes:
    """What Linux said to `packet`."""
    reply = WHOLES[WHOLES.index(packet) + 1]
    assert not is_ours(reply)
    return reply


def data_of(packet: bytes) -> bytes:
    """The packet without its IP header, whose time to live, identification and labels differ."""
    return packet[ip.decode(packet).header_length :]


def test_every_packet_of_linux_parses() -> None:
    for packet in PACKETS:
        if not is_ours(packet):
            header = ip.decode(packet)
            assert (header.source, header.destination) == (
                KERNEL[header.version],
                DEVICE[header.version],
            )
            assert header.total_length == len(packet)


def rebuilt(packet: bytes) -> bytes:
    """As reassembly leaves a packet that was cut: without DF."""
    if packet[0] >> 4 == 4 and len(packet) > 1280:
        header = ip.decode(packet)
        size = len(packet) - 20
        return (
            ip.ipv4_header(header.source, header.destination, header.protocol, size, flags=0)
            + packet[20:]
        )
    return packet


@VERSIONS
@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_udp_there_and_back(version: int, payload: bytes) -> None:
    ours = udp.build((DEVICE[version], 5555), (KERNEL[version], 7), payload)
    reply = data_of(answer(with_identification(ours)))
    assert reply == data_of(udp.build((KERNEL[version], 7), (DEVICE[version], 5555), payload))


def with_identification(packet: bytes) -> bytes:
    """The packet as it stands in the capture, where it may have been cut and put together."""
    packet = rebuilt(packet)
    return next(
        whole for whole in WHOLES if is_ours(whole) and data_of_or_none(whole) == data_of(packet)
    )


def data_of_or_none(packet: bytes) -> bytes | None:
    header = ip.parse(packet)
    return None if header is None else packet[header.header_length :]


@VERSIONS
@pytest.mark.parametrize("sequence", range(4))
def test_ping(version: int, sequence: int) -> None:
    payload = PAYLOADS[sequence]
    kind = {4: 8, 6: 128}[version]
    rest = struct.pack("!HH", 77, sequence) + payload
    ours = icmp.build_message(DEVICE[version], KERNEL[version], kind, 0, rest)
    request = EchoRequest(None, DEVICE[version], KERNEL[version], 77, sequence, payload, b"")
    assert data_of(answer(with_identification(ours))) == data_of(icmp.echo_reply(request))


@VERSIONS
@pytest.mark.parametrize("payload", PAYLOADS, ids=len)
def test_a_closed_port(version: int, payload: bytes) -> None:
    ours = udp.build((DEVICE[version], 5555), (KERNEL[version], 9), payload[:1000])
    error = icmp.unreachable(ours, Unreachable.PORT, None)
    assert error is not None
    linux = answer(ours)
    assert data_of(linux) == data_of(error)
    assert len(linux) == len(error)


@VERSIONS
def test_an_unknown_protocol(version: int) -> None:
    ours = ip.build_header(DEVICE[version], KERNEL[version], 254, 8) + bytes(8)
    error = icmp.unreachable(ours, Unreachable.PROTOCOL, None)
    assert error is not None
    assert data_of(answer(ours)) == data_of(error)


@pytest.mark.parametrize(
    "reason",
    ["unknown option", "routing header", "fragment length", "fragments too long"],
)
def test_refusals_of_v6_headers(reason: str) -> None:
    """Linux points at the same byte of the same packet, with the same code."""
    problems = {}
    for packet in PACKETS:
        try:
            header = ip.decode(packet)
            if header.fragment is not None:
                Reassembler(Counter()).add("tun", packet, header, 0.0)
        except IpError as error:
            problems[error.reason] = (packet, error.problem)
    packet, problem = problems[reason]
    assert problem is not None
    ours = icmp.parameter_problem(packet, problem, KERNEL[6])
    assert ours is not None
    assert data_of(answer(packet)) == data_of(ours)


@VERSIONS
def test_how_linux_cuts(version: int) -> None:
    """Its fragments are ours but for identification and flow label."""
    mine = udp.build((KERNEL[version], 7), (DEVICE[version], 5555), PAYLOADS[3])
    headers = [ip.decode(packet) for packet in ip.split(mine, 1, 1280)]
    theirs = [
        header
        for packet in PACKETS
        if not is_ours(packet)
        and (header := ip.decode(packet)).fragment
        and (header.version, header.protocol) == (version, UDP)
    ]
    assert len(theirs) == len(headers)
    for ours, linux in zip(headers, theirs, strict=True):
        assert ours.fragment is not None
        assert linux.fragment is not None
        assert ours.fragment._replace(identification=0) == linux.fragment._replace(identification=0)
        assert ours._replace(fragment=None) == linux._replace(fragment=None)


def test_a_syn() -> None:
    header = ip.decode(PACKETS[-1])
    assert (header.protocol, header.header_length, header.total_length) == (TCP, 20, 60)
    assert header.key == PACKETS[-1][12:24]


def test_the_capture_holds_both_versions() -> None:
    protocols = {header.protocol for packet in PACKETS if (header := ip.parse(packet))}
    assert {ICMP, ICMPV6, TCP, UDP} <= protocols
