"""Sequence numbers. Inside, they never wrap; on the wire they are taken modulo 2**32.

A number from the wire is unwrapped once, next to one that is known; from there on plain integers
and plain comparisons do.
"""

from __future__ import annotations

MASK = 0xFFFFFFFF
HALF = 0x80000000


def unwrap(wire: int, near: int) -> int:
    """The number nearest to `near` whose low 32 bits are `wire`."""
    return near + ((wire - near + HALF) & MASK) - HALF
