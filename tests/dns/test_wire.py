"""Names and messages as bytes, with dnspython as the oracle."""

from __future__ import annotations

import dns.name
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.dns.wire import name_to_text, name_to_wire, suffixes


@given(st.lists(st.binary(min_size=1, max_size=20), max_size=8))
def test_names_as_text(labels: list[bytes]) -> None:
    name = dns.name.Name([*(label.lower() for label in labels), b""])
    wire = name.to_wire()
    assert wire is not None
    text = name_to_text(wire)
    assert dns.name.from_text(text + ".") == name
    found = suffixes(wire)
    assert [wire[offset:] for offset, _ in found] == [suffix for _, suffix in found]
    assert len(found) == len(labels)


@pytest.mark.parametrize("name", ["example.com", "Example.COM.", "_a-b.c", "a", ""])
def test_text_to_wire(name: str) -> None:
    expected = dns.name.from_text(name.lower() or ".").to_wire()
    assert name_to_wire(name) == expected


@pytest.mark.parametrize("name", ["a b", "é", "a..b", ".a", "a" * 64, ".".join(["a" * 60] * 5)])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(ValueError, match="DNS"):
        name_to_wire(name)
