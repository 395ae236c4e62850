"""Reassembly: every order, overlaps, duplicates, limits and timeouts, for both versions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from itertools import pairwise, permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lopower.netstack import fragments, ip
from lopower.netstack.checksum import ones_sum
from lopower.netstack.fragments import Reassembler
from lopower.netstack.ip import DESTINATION_OPTIONS, FRAGMENT, UDP, IpError, ParameterProblem

SOURCE = {4: bytes([10, 90, 0, 2]), 6: bytes.fromhex("fd90") + bytes(13) + b"\x02"}
DESTINATION = {4: bytes([192, 0, 2, 7]), 6: bytes.fromhex("20010db8") + bytes(11) + b"\x07"}
VERSIONS = pytest.mark.parametrize("version", [4, 6])


def piece(version: int, offset: int, data: bytes, *, more: bool, identification: int = 7) -> bytes:
    addresses = SOURCE[version], DESTINATION[version]
    if version == 4:
        flags = (offset >> 3) | (ip.MORE_FRAGMENTS if more else 0)
        header = ip.ipv4_header(
            *addresses, UDP, len(data), identification=identification, flags=flags
        )
        return header + data
    fragment = ip.fragment_header(UDP, offset, more, identification)
    return ip.ipv6_header(*addresses, FRAGMENT, 8 + len(data)) + fragment + data


def whole(version: int, data: bytes) -> bytes:
    addresses = SOURCE[version], DESTINATION[version]
    if version == 4:
        return ip.ipv4_header(*addresses, UDP, len(data), flags=0) + data
    return ip.ipv6_header(*addresses, UDP, len(data)) + data


class Desk:
    """A reassembler and its drops."""

    def __init__(self) -> None:
        self.drops: Counter[str] = Counter()
        self.reassembler = Reassembler(self.drops)

    def add(self, packet: bytes, now: float = 0.0, link: Hashable = "a") -> bytes | None:
        result = self.reassembler.add(link, packet, ip.decode(packet), now)
        self.check()
        return result

    def check(self) -> None:
        """The books agree with what is held."""
        held = self.reassembler._datagrams
        sizes = {key: sum(map(len, datagram.pieces)) for key, datagram in held.items()}
        assert self.reassembler.size == sum(sizes.values()) <= fragments.MAX_BYTES
        assert len(held) <= fragments.MAX_DATAGRAMS
        assert all(len(datagram.pieces) <= fragments.MAX_PIECES for datagram in held.values())
        for link in {key[0] for key in held}:
            of_link = [size for key, size in sizes.items() if key[0] == link]
            assert self.reassembler._link_datagrams[link] == len(of_link)
            assert len(of_link) <= fragments.MAX_LINK_DATAGRAMS
            assert self.reassembler._link_bytes[link] == sum(of_link) <= fragments.MAX_LINK_BYTES
        assert set(self.reassembler._link_datagrams) == {key[0] for key in held}

    def is_empty(self) -> bool:
        return not len(self.reassembler) and self.reassembler.deadline() is None


@pytest.fixture
def desk() -> Desk:
    return Desk()


DATA = bytes(range(256)) * 4


def cut(version: int, data: bytes, cuts: list[int], identification: int = 7) -> list[bytes]:
    edges = [0, *cuts, len(data)]
    return [
        piece(version, a, data[a:b], more=b < len(data), identification=identification)
        for a, b in pairwise(edges)
    ]


@VERSIONS
def test_every_order(version: int) -> None:
    pieces = cut(version, DATA[:1001], [8, 256, 264, 800])
    for order in permutations(pieces):
        desk = Desk()
        results = [desk.add(packet) for packet in order]
        assert results[:-1] == [None] * 4
        assert results[-1] == whole(version, DATA[:1001])
        assert desk.is_empty()
        assert not desk.drops


@given(
    st.sampled_from([4, 6]),
    st.binary(min_size=17, max_size=9000),
    st.data(),
)
def test_any_cut_any_order_with_duplicates(version: int, data: bytes, draw: st.DataObject) -> None:
    units = (len(data) - 1) // 8
    cuts = draw.draw(st.lists(st.integers(1, units), min_size=1, max_size=20, unique=True))
    pieces = cut(version, data, sorted(8 * unit for unit in cuts))
    order = draw.draw(st.permutations(range(len(pieces))))
    desk, results = Desk(), []
    for number in order:
        results.append(desk.add(pieces[number]))
        if number != order[-1]:
            assert desk.add(pieces[number]) is None  # an exact duplicate changes nothing
    assert results[-1] == whole(version, data)
    assert results[:-1] == [None] * (len(pieces) - 1)
    assert desk.is_empty()
    assert desk.drops == {"duplicate fragment": len(pieces) - 1}


@given(st.sampled_from([4, 6]), st.binary(min_size=1281, max_size=30000), st.integers(0, 2**32))
def test_what_split_cuts_is_put_together(version: int, data: bytes, identification: int) -> None:
    desk, packet = Desk(), whole(version, data)
    results = [desk.add(part) for part in ip.split(packet, identification, 1280)]
    assert results == [*[None] * (len(results) - 1), packet]


@VERSIONS
def test_the_longest_datagram(version: int, desk: Desk) -> None:
    data = bytes(65535 - 20 if version == 4 else 65535)
    results = [desk.add(part) for part in ip.split(whole(version, data), 1, 1280)]
    assert results[-1] == whole(version, data)


@VERSIONS
def test_fragments_that_pass_the_longest_datagram(version: int, desk: Desk) -> None:
    with pytest.raises(IpError) as caught:
        desk.add(piece(version, 65528, bytes(8), more=False))
    assert caught.value.reason == "fragments too long"
    assert caught.value.problem == (None if version == 4 else ParameterProblem(0, 42))
    assert desk.is_empty()


def test_a_long_first_header_that_makes_the_datagram_too_long(desk: Desk) -> None:
    first = bytearray(ip.ipv4_header(SOURCE[4], DESTINATION[4], UDP, 1248, flags=0x2000))
    first = bytearray(bytes([0x46]) + bytes(first[1:]) + b"\1\1\1\0")
    first[2:4], first[4:6], first[10:12] = (1272).to_bytes(2), (7).to_bytes(2), bytes(2)
    first[10:12] = (65535 - ones_sum(first)).to_bytes(2)
    desk.add(bytes(first) + bytes(1248))
    rest = [
        piece(4, offset, bytes(min(1248, 65515 - offset)), more=offset + 1248 < 65515)
        for offset in range(1248, 65515, 1248)
    ]
    for packet in rest[:-1]:
        desk.add(packet)
    with pytest.raises(IpError, match="fragments too long"):
        desk.add(rest[-1])
    assert desk.is_empty()


def test_a_long_unfragmentable_part_that_makes_the_datagram_too_long(desk: Desk) -> None:
    options = bytes([FRAGMENT, 0, 1, 4]) + bytes(4)
    fragment = ip.fragment_header(UDP, 0, True, 7)
    payload = options + fragment + bytes(1224)
    addresses = SOURCE[6], DESTINATION[6]
    desk.add(ip.ipv6_header(*addresses, DESTINATION_OPTIONS, len(payload)) + payload)
    rest = [
        piece(6, offset, bytes(min(1224, 65535 - offset)), more=offset + 1224 < 65535)
        for offset in range(1224, 65535, 1224)
    ]
    for packet in rest[:-1]:
        desk.add(packet)
    with pytest.raises(IpError, match="fragments too long"):
        desk.add(rest[-1])


def test_the_unfragmentable_part_is_kept_and_leads_to_the_data(desk: Desk) -> None:
    options = bytes([FRAGMENT, 0, 1, 4]) + bytes(4)
    payload = options + ip.fragment_header(UDP, 0, True, 7) + DATA[:64]
    addresses = SOURCE[6], DESTINATION[6]
    desk.add(piece(6, 64, DATA[64:100], more=False))
    packet = desk.add(ip.ipv6_header(*addresses, DESTINATION_OPTIONS, len(payload)) + payload)
    assert packet is not None
    header = ip.decode(packet)
    assert (header.protocol, header.header_length) == (UDP, 48)
    assert packet[48:] == DATA[:100]


@pytest.mark.parametrize("length", [0, 9])
def test_v4_fragments_of_lengths_no_sender_makes(length: int, desk: Desk) -> None:
    with pytest.raises(IpError, match="fragment length"):
        desk.add(piece(4, 8, bytes(length), more=True))


@VERSIONS
@pytest.mark.parametrize(
    ("offset", "length"), [(0, 8), (0, 72), (56, 16), (64, 64), (72, 8), (120, 16), (0, 256)]
)
def test_an_overlap_drops_the_datagram_and_what_follows(
    version: int, offset: int, length: int, desk: Desk
) -> None:
    """The pieces 0..64 and 64..128 are there; then something overlaps."""
    desk.add(piece(version, 0, DATA[:64], more=True))
    desk.add(piece(version, 64, DATA[64:128], more=True))
    assert desk.add(piece(version, offset, b"x" * length, more=True)) is None
    assert desk.drops["overlapping fragments"] == 1
    assert desk.reassembler.size == 0
    assert desk.add(piece(version, 128, DATA[128:200], more=False)) is None
    assert desk.add(piece(version, 0, DATA[:64], more=True)) is None
    assert desk.drops["fragment of a dropped datagram"] == 2
    assert desk.reassembler.expire(30.0) == []
    assert desk.is_empty()


@VERSIONS
def test_the_same_place_with_other_bytes_is_an_overlap(version: int, desk: Desk) -> None:
    desk.add(piece(version, 0, DATA[:64], more=True))
    desk.add(piece(version, 0, DATA[1:65], more=True))
    assert desk.drops == {"overlapping fragments": 1}


@VERSIONS
@pytest.mark.parametrize(("offset", "more"), [(128, True), (128, False), (8, False), (192, False)])
def test_a_datagram_has_one_end(version: int, offset: int, more: bool, desk: Desk) -> None:
    desk.add(piece(version, 120, bytes(8), more=False))
    assert desk.add(piece(version, offset, bytes(8), more=more)) is None
    assert desk.drops == {"fragments past the end": 1}


@VERSIONS
def test_an_end_before_what_has_come(version: int, desk: Desk) -> None:
    desk.add(piece(version, 64, bytes(8), more=True))
    assert desk.add(piece(version, 8, bytes(8), more=False)) is None
    assert desk.drops == {"fragments past the end": 1}


@VERSIONS
def test_datagrams_are_told_apart(version: int, desk: Desk) -> None:
    first, second = cut(version, DATA, [512]), cut(version, DATA[::-1], [512], identification=8)
    assert desk.add(first[0]) is None
    assert desk.add(second[1]) is None
    assert desk.add(first[1], link="b") is None
    assert desk.add(first[1]) == whole(version, DATA)
    assert desk.add(second[0]) == whole(version, DATA[::-1])
    assert len(desk.reassembler) == 1


def test_a_datagram_of_too_many_pieces(desk: Desk) -> None:
    for number in range(fragments.MAX_PIECES + 1):
        desk.add(piece(4, 8 * number, bytes(8), more=True))
    assert desk.drops == {"too many fragments": 1}


def test_a_link_has_so_many_datagrams_at_a_time(desk: Desk) -> None:
    for number in range(fragments.MAX_LINK_DATAGRAMS + 1):
        desk.add(piece(4, 0, bytes(8), more=True, identification=number))
    assert desk.drops == {"fragment limit": 1}
    assert len(desk.reassembler) == fragments.MAX_LINK_DATAGRAMS
    # The oldest went, and is begun anew by its second fragment.
    assert desk.add(piece(4, 8, bytes(8), more=False, identification=0)) is None
    assert desk.add(piece(4, 8, bytes(8), more=False, identification=9)) is not None


def test_a_link_holds_so_many_bytes(desk: Desk) -> None:
    for number in range(3):
        for offset in range(0, 60000, 1200):
            desk.add(piece(4, offset, bytes(1200), more=True, identification=number))
    assert desk.drops == {"fragment limit": 1}
    assert desk.reassembler.size <= fragments.MAX_LINK_BYTES


def test_one_link_does_not_cost_another_its_datagrams(desk: Desk) -> None:
    desk.add(piece(4, 0, bytes(8), more=True), link="quiet")
    for number in range(fragments.MAX_LINK_DATAGRAMS * 2):
        desk.add(piece(4, 0, bytes(8), more=True, identification=number), link="loud")
    assert desk.add(piece(4, 8, bytes(8), more=False), link="quiet") is not None


def test_all_links_together_have_so_many_datagrams(desk: Desk) -> None:
    for link in range(fragments.MAX_DATAGRAMS // fragments.MAX_LINK_DATAGRAMS + 1):
        for number in range(fragments.MAX_LINK_DATAGRAMS):
            desk.add(piece(4, 0, bytes(8), more=True, identification=number), link=link)
    assert desk.drops == {"fragment limit": fragments.MAX_LINK_DATAGRAMS}


def test_all_links_together_hold_so_many_bytes(desk: Desk) -> None:
    for link in range(9):
        for number in range(2):
            for offset in range(0, 62400, 1248):
                packet = piece(4, offset, bytes(1248), more=True, identification=number)
                desk.reassembler.add(link, packet, ip.decode(packet), 0.0)
        desk.check()
    assert desk.drops["fragment limit"] == 2


@VERSIONS
def test_time_runs_out_from_the_first_piece_on(version: int, desk: Desk) -> None:
    first, second = cut(version, DATA, [512])
    desk.add(first, now=10.0)
    desk.add(second, now=12.0, link="b")
    assert desk.reassembler.deadline() == 10.0 + fragments.TIMEOUT
    assert desk.reassembler.expire(39.9) == []
    assert desk.reassembler.expire(40.0) == [("a", first)]
    assert desk.reassembler.deadline() == 12.0 + fragments.TIMEOUT
    assert desk.reassembler.expire(50.0) == [("b", b"")]
    assert desk.drops == {"reassembly timeout": 2}
    assert desk.is_empty()


def test_drop_link(desk: Desk) -> None:
    desk.add(piece(4, 0, bytes(8), more=True))
    desk.add(piece(4, 0, bytes(8), more=True), link="b")
    desk.reassembler.drop_link("a")
    desk.check()
    assert desk.add(piece(4, 8, bytes(8), more=False)) is None
    assert desk.add(piece(4, 8, bytes(8), more=False), link="b") is not None


noise = st.lists(
    st.tuples(
        st.sampled_from([4, 6]),
        st.integers(0, 20),  # offset in units
        st.integers(1, 64),  # length
        st.booleans(),
        st.integers(0, 3),  # identification
        st.sampled_from("ab"),
    ),
    max_size=60,
)


@given(noise)
def test_whatever_comes_the_books_agree(
    packets: list[tuple[int, int, int, bool, int, str]],
) -> None:
    desk = Desk()
    for now, (version, unit, length, more, identification, link) in enumerate(packets):
        more = more or not unit
        size = length & ~7 or 8 if more else length
        part = piece(version, 8 * unit, bytes(size), more=more, identification=identification)
        result = desk.add(part, float(now), link)
        if result is not None:
            header = ip.decode(result)
            assert header.fragment is None
            assert not any(result[header.header_length :])
    desk.reassembler.expire(1000.0)
    desk.check()
    assert desk.is_empty()
