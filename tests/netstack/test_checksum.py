"""The folded big-integer sums against the loop of RFC 1071."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lopower.netstack.checksum import (
    checksum,
    native_sum,
    ones_sum,
    pseudo_header_sum,
    row_sums,
)


def rfc_1071(data: bytes) -> int:
    """The C program of RFC 1071, 4.1, but for the final complement."""
    total = 0
    for i in range(0, len(data) - 1, 2):
        total += (data[i] << 8) + data[i + 1]
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def test_the_example_of_rfc_1071() -> None:
    assert ones_sum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xDDF2 ^ 0xFFFF


@given(st.binary(max_size=2000))
def test_sum_is_that_of_the_rfc(data: bytes) -> None:
    assert ones_sum(data) == rfc_1071(data) % 65535
    assert ones_sum(memoryview(data)) == ones_sum(bytearray(data)) == ones_sum(data)


@given(st.binary(max_size=300), st.integers(0, 65534))
def test_a_packet_with_its_checksum_sums_to_nothing(data: bytes, initial: int) -> None:
    data = data + b"\0" * (len(data) & 1)
    field = checksum(data, initial)
    assert 0 < field <= 65535
    assert (ones_sum(data + field.to_bytes(2)) + initial) % 65535 == 0


@given(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4))
def test_pseudo_header_v4(source: bytes, destination: bytes) -> None:
    whole = source + destination + bytes([0, 17]) + (1240).to_bytes(2)
    assert pseudo_header_sum(source, destination, 17, 1240) == ones_sum(whole)


@given(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16))
def test_pseudo_header_v6(source: bytes, destination: bytes) -> None:
    whole = source + destination + (1240).to_bytes(4) + bytes([0, 0, 0, 58])
    assert pseudo_header_sum(source, destination, 58, 1240) == ones_sum(whole)


@given(st.integers(1, 9), st.integers(1, 80), st.randoms(use_true_random=False))
def test_row_sums_are_the_sums_of_the_rows(count: int, words: int, random: object) -> None:
    data = random.randbytes(count * words * 4)  # type: ignore[attr-defined]
    matrix = np.frombuffer(data, np.uint8).reshape(count, words * 4)
    expected = [native_sum(ones_sum(row.tobytes())) for row in matrix]
    assert (row_sums(matrix) % 65535).tolist() == expected
    wider = np.hstack([matrix, matrix])
    assert row_sums(wider[:, : words * 4]).tolist() == row_sums(matrix).tolist()
