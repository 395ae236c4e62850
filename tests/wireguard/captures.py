"""Reads UDP payloads out of pcap and pcapng files of Ethernet and IPv4."""

from __future__ import annotations

from pathlib import Path
from struct import unpack_from

from lopower.endpoint import Endpoint

VECTORS = Path(__file__).parent.parent / "vectors"
_ENHANCED_PACKET = 6


def _frames_pcap(data: bytes) -> list[bytes]:
    frames, offset = [], 24
    while offset < len(data):
        size = unpack_from("<I", data, offset + 8)[0]
        frames.append(data[offset + 16 : offset + 16 + size])
        offset += 16 + size
    return frames


def _frames_pcapng(data: bytes) -> list[bytes]:
    frames, offset = [], 0
    while offset < len(data):
        kind, size = unpack_from("<II", data, offset)
        if kind == _ENHANCED_PACKET:
            captured = unpack_from("<I", data, offset + 20)[0]
            frames.append(data[offset + 28 : offset + 28 + captured])
        offset += size
    return frames


def datagrams(name: str) -> list[tuple[Endpoint, bytes]]:
    """Source and payload of every datagram of a capture."""
    data = (VECTORS / name).read_bytes()
    frames = _frames_pcapng(data) if name.endswith("ng") else _frames_pcap(data)
    result = []
    for frame in frames:
        host = ".".join(str(octet) for octet in frame[26:30])
        port, length = unpack_from(">H2xH", frame, 34)
        result.append((Endpoint(host, port), frame[42 : 34 + length]))
    return result
