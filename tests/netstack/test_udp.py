"""UDP as it goes out."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.netstack import ip, udp
from lopower.netstack.checksum import ones_sum, pseudo_header_sum

ports = st.integers(0, 65535)
pairs = st.one_of(
    st.tuples(st.binary(min_size=4, max_size=4), st.binary(min_size=4, max_size=4)),
    st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=16, max_size=16)),
)


@given(pairs, ports, ports, st.binary(max_size=1500))
def test_build(addresses: tuple[bytes, bytes], source: int, port: int, payload: bytes) -> None:
    packet = udp.build((addresses[0], source), (addresses[1], port), payload)
    header = ip.decode(packet)
    assert (header.source, header.destination) == addresses
    assert (header.protocol, header.total_length) == (ip.UDP, len(packet))
    assert header.key[-4:] == source.to_bytes(2) + port.to_bytes(2)
    datagram = packet[header.header_length :]
    assert int.from_bytes(datagram[4:6]) == len(datagram) == len(payload) + 8
    assert datagram[8:] == payload
    assert datagram[6:8] != b"\0\0"  # RFC 768: zero would say that there is none
    pseudo = pseudo_header_sum(*addresses, ip.UDP, len(datagram))
    assert (ones_sum(datagram) + pseudo) % 65535 == 0


@given(pairs, ports, ports, st.binary(max_size=100))
def test_the_ip_header_is_the_one_of_the_builder(
    addresses: tuple[bytes, bytes], source: int, port: int, payload: bytes
) -> None:
    packet = udp.build((addresses[0], source), (addresses[1], port), payload)
    header = ip.build_header(*addresses, ip.UDP, len(payload) + 8)
    assert packet.startswith(header)


@pytest.mark.parametrize("size", [0, 1, udp.MAX_PAYLOAD - 1, udp.MAX_PAYLOAD])
def test_lengths(size: int) -> None:
    packet = udp.build((bytes(4), 1), (bytes(4), 2), memoryview(bytes(size)))
    assert int.from_bytes(packet[2:4]) == len(packet) == size + 28


def test_a_checksum_of_zero_goes_as_all_ones() -> None:
    for word in range(65536):
        packet = udp.build((bytes(4), 0), (bytes(4), 0), word.to_bytes(2))
        if packet[26:28] == b"\xff\xff":
            return
    pytest.fail("no payload makes the sum zero")


def test_families_do_not_mix() -> None:
    with pytest.raises(ValueError, match="families"):
        udp.build((bytes(4), 1), (bytes(16), 2), b"")
