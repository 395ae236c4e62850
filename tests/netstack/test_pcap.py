"""Captures, in the words of the pcap file format (draft-ietf-opsawg-pcap)."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from lopower.netstack import pcap


def test_file_header() -> None:
    expected = bytes.fromhex("d4c3b2a1 0200 0400 00000000 00000000 ffff0000 65000000")
    assert pcap.file_header() == expected


def test_record() -> None:
    header = struct.pack("<IIII", 1_700_000_000, 250_000, 3, 3)
    assert pcap.record(b"abc", 1_700_000_000.25) == header + b"abc"


def test_a_long_packet_is_cut_but_its_length_told() -> None:
    assert pcap.record(bytes(100), 0.0, snap_length=60)[8:16] == struct.pack("<II", 60, 100)


@given(st.floats(0, 4e9), st.binary(max_size=50))
def test_microseconds_never_make_a_second(wall: float, packet: bytes) -> None:
    seconds, microseconds, kept, length = struct.unpack_from("<IIII", pcap.record(packet, wall))
    assert microseconds < 1_000_000
    assert abs(seconds + microseconds / 1e6 - wall) < 2e-6 + wall * 1e-15
    assert kept == length == len(packet)
