"""Captures of inner packets in the classic pcap format, as tcpdump and Wireshark read it."""

from __future__ import annotations

from struct import Struct

MAGIC_MICROSECONDS = 0xA1B2C3D4
LINKTYPE_RAW = 101  # packets begin with their IPv4 or IPv6 header
SNAP_LENGTH = 65_535  # the longest packet there is

_FILE_HEADER = Struct("<IHHiIII")
_RECORD_HEADER = Struct("<IIII")


def file_header(snap_length: int = SNAP_LENGTH) -> bytes:
    """What a capture begins with."""
    return _FILE_HEADER.pack(MAGIC_MICROSECONDS, 2, 4, 0, 0, snap_length, LINKTYPE_RAW)


def record(
    packet: bytes | bytearray | memoryview, wall: float, snap_length: int = SNAP_LENGTH
) -> bytes:
    """One packet, seen at `wall` seconds since 1970, cut to `snap_length`."""
    seconds, microseconds = divmod(round(wall * 1e6), 1_000_000)
    kept = bytes(packet[:snap_length])
    return _RECORD_HEADER.pack(seconds, microseconds, len(kept), len(packet)) + kept
