"""A few inputs of the fuzz target in every run."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_wireguard import one_input

kinds = st.sampled_from([b"\1", b"\2", b"\3", b"\4", b"\0", b"\xff"])
sizes = st.one_of(st.sampled_from([148, 92, 64, 32, 48, 144, 84, 56]), st.integers(0, 400))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=600))
def test_any_bytes(data: bytes) -> None:
    one_input(data)


@settings(max_examples=60, deadline=None)
@given(kinds, st.integers(0, 255), sizes, st.randoms(use_true_random=False))
def test_likely_sizes(kind: bytes, row: int, size: int, chance: object) -> None:
    one_input(kind + bytes([row]) + chance.randbytes(size))  # type: ignore[attr-defined]
