"""The Internet checksum (RFC 1071), for one packet and for a matrix of packets.

The ones-complement sum is the value modulo 65535, whatever the byte order (RFC 1071, 2B), so
Python's big integers and numpy's 32-bit columns do the adding.
"""

from __future__ import annotations

import sys

import numpy as np
from numpy.typing import NDArray

from lopower.bursts import Matrix

# Folding by halves first makes the number that the modulo sees small: a third of the cost.
_FOLDS = [(bits, (1 << bits) - 1) for bits in (5120, 2560, 1280, 640)]


def ones_sum(data: bytes | bytearray | memoryview) -> int:
    """The ones-complement sum of big-endian 16-bit words, in 0..65534; an odd tail is padded."""
    value = int.from_bytes(data)
    if len(data) & 1:
        value <<= 8
    for bits, mask in _FOLDS:
        if value > mask:
            value = (value & mask) + (value >> bits)
    return value % 65535


def checksum(data: bytes | bytearray | memoryview, initial: int = 0) -> int:
    """The 16-bit checksum field over `data`, `initial` being the sum of a pseudo-header."""
    return 65535 - (ones_sum(data) + initial) % 65535


def pseudo_header_sum(source: bytes, destination: bytes, protocol: int, length: int) -> int:
    """The sum of the IPv4 or IPv6 pseudo-header (RFC 9293, 3.1; RFC 8200, 8.1)."""
    return (ones_sum(source + destination) + protocol + length) % 65535


def row_sums(matrix: Matrix) -> NDArray[np.uint64]:
    """The sum of each row in the machine's byte order; rows are a multiple of 4 bytes wide."""
    words = np.ascontiguousarray(matrix).view(np.uint32)
    sums: NDArray[np.uint64] = np.add.reduce(words, axis=1, dtype=np.uint64)
    return sums


def native_sum(value: int) -> int:
    """A sum of big-endian words, in the machine's byte order."""
    return int.from_bytes((value % 65535).to_bytes(2, sys.byteorder))
