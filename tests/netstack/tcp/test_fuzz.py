"""The fuzz target on inputs that are the same every time, and on what hypothesis thinks of."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.fuzz_tcp import one_input


def test_random_inputs() -> None:
    random = Random(793)
    for _ in range(1500):
        one_input(b"\1" + random.randbytes(random.randrange(400)))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=300))
def test_inputs_of_hypothesis(data: bytes) -> None:
    one_input(data)
