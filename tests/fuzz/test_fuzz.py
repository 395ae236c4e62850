"""The fuzz targets that no other test drives, each with random bytes and with pieces that fit."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz import fuzz_dns, fuzz_netstack, fuzz_profile, fuzz_rule

KEY = b"A" * 43 + b"="
LINES = [
    b"PublicKey = " + KEY,
    b"AllowedIPs = 0.0.0.0/0",
    b"AllowedIPs = 10.0.0.0/33",
    b"Endpoint = [::1]:5",
    b"Endpoint = x:99999",
    b"DNS = a,b",
    b"PersistentKeepalive = 99999",
    b"[Peer]",
    b"=\xff\x00",
]


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_nothing_escapes_the_parsers(data: bytes) -> None:
    for target in (fuzz_dns, fuzz_netstack, fuzz_profile, fuzz_rule):
        target.one_input(data)


@settings(deadline=None)
@given(st.lists(st.sampled_from(LINES), max_size=8))
def test_nothing_escapes_the_reader_of_profiles(lines: list[bytes]) -> None:
    fuzz_profile.one_input(b"\n".join(lines))
