"""Data, a burst at a time: the same as transport.py does packet by packet, or nothing at all.

A burst is taken only if nothing about it is in doubt. Otherwise None is returned with nothing
changed, and the caller goes packet by packet.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from cryptography.exceptions import InvalidTag
from numpy.typing import NDArray

from lopower.bursts import Matrix, RowBuffer, Rows, Tails
from lopower.endpoint import Endpoint
from lopower.wireguard.constants import REJECT_AFTER_MESSAGES, REKEY_AFTER_MESSAGES
from lopower.wireguard.core import Core
from lopower.wireguard.handshakes import Handshakes
from lopower.wireguard.keypair import Keypair
from lopower.wireguard.messages import (
    TRANSPORT,
    TRANSPORT_HEADER,
    TRANSPORT_HEADER_SIZE,
    TRANSPORT_OVERHEAD,
)
from lopower.wireguard.peer import Peer
from lopower.wireguard.transport import Transport

# What a UDP_SEGMENT send over IPv4 can carry.
CAPACITY = 65507
# Below this the fixed cost of the columns is more than they save, here and in the netstack.
MIN_RECEIVED = 4
MIN_SENT = 3
# A receive buffer of 64 KiB holds no more rows of a size worth it.
MAX_ROWS = 256
_MIN_PACKET = 20

U64 = np.dtype("<u8")

_unpack_header = TRANSPORT_HEADER.unpack_from


class SealedBurst(NamedTuple):
    """Datagrams of `segment_size` bytes one after another, valid until the next call."""

    endpoint: Endpoint
    buffer: memoryview
    segment_size: int


class _Nonces:
    """Nonces as rows to write counters to, and ready-made views of them for the cipher."""

    __slots__ = ("counters", "views")

    def __init__(self) -> None:
        rows = RowBuffer(12 * MAX_ROWS).rows(MAX_ROWS, 12)
        self.views = rows.views
        self.counters: NDArray[np.uint64] = rows.matrix[:, 4:].view(U64)[:, 0]


class Bursts:
    """Opens and seals bursts, in buffers of its own that every call writes anew."""

    __slots__ = (
        "_clear",
        "_core",
        "_handshakes",
        "_lookup",
        "_nonces",
        "_ramp",
        "_ramps",
        "_sealed",
        "_tails",
        "_transport",
    )

    def __init__(self, core: Core, transport: Transport, handshakes: Handshakes) -> None:
        self._core = core
        self._lookup = core.allowed_ips.lookup
        self._transport = transport
        self._handshakes = handshakes
        self._nonces = _Nonces()
        self._ramp: NDArray[np.uint64] = np.arange(MAX_ROWS, dtype=U64)
        # What the first 16 bytes of consecutive datagrams differ by, as two numbers each.
        self._ramps = np.zeros((MAX_ROWS, 2), U64)
        self._ramps[:, 1] = self._ramp
        self._clear = RowBuffer(1 << 17)
        self._sealed = RowBuffer(CAPACITY)
        self._tails = Tails(TRANSPORT_HEADER_SIZE)

    def receive(self, rows: Rows, source: Endpoint, now: float) -> tuple[Peer, Matrix] | None:
        """Open a burst of datagrams of one size: the peer and its inner packets, padding and all.

        None, and nothing has changed: give each row to Transport.receive().
        """
        matrix, views = rows
        count, size = matrix.shape
        clear_size = size - TRANSPORT_OVERHEAD
        if clear_size < _MIN_PACKET or not MIN_RECEIVED <= count <= MAX_ROWS:
            return None
        kind, index, first = _unpack_header(views[0])
        keypair = self._core.sessions.get(index)
        if keypair is None or kind != TRANSPORT or now >= keypair.expires_at:
            return None
        counters = self._ascending(matrix, first, keypair)
        if counters is None:
            return None
        clear = self._clear.rows(count, clear_size)
        if len(clear.views) < count or not self._open(keypair, counters, views, clear.views):
            return None
        peer = keypair.peer
        if not self._is_allowed(peer, clear.matrix):
            return None
        keypair.window.accept_ascending(counters)
        if source is not peer.endpoint:
            self._core.roam(peer, source)
        self._transport.authenticated(keypair, now)
        self._transport.data_received(peer, now)
        peer.keepalive_again = True
        peer.rx_bytes += count * size
        return peer, clear.matrix

    def send(self, peer: Peer, packets: Rows, now: float) -> SealedBurst | None:
        """Seal inner packets of one size, padded already.

        None, and nothing has changed: give each packet to Transport.send(). What
        `datagrams_to_send` holds goes out before the burst does.
        """
        keypair, endpoint = peer.current, peer.endpoint
        matrix, views = packets
        count, size = matrix.shape
        if (
            keypair is None
            or endpoint is None
            or now >= keypair.expires_at
            or not MIN_SENT <= count <= MAX_ROWS
            or keypair.send_counter + count > REKEY_AFTER_MESSAGES
        ):
            return None
        segment_size = size + TRANSPORT_OVERHEAD
        sealed = self._sealed.rows(count, segment_size)
        if len(sealed.views) < count:
            return None
        self._seal(keypair, views, sealed)
        total = count * segment_size
        self._core.sent(peer, total, now)
        self._transport.data_sent(peer, now)
        if now >= keypair.rekey_at:
            self._handshakes.initiate(peer, now)
        return SealedBurst(endpoint, self._sealed.view[:total], segment_size)

    def _ascending(self, matrix: Matrix, first: int, keypair: Keypair) -> Sequence[int] | None:
        """Write the nonces; the counters, if all rows are of one session and none is doubtful."""
        count = len(matrix)
        last = first + count - 1
        if first < keypair.window.next or last >= REJECT_AFTER_MESSAGES:
            return None
        heads = matrix[:, :TRANSPORT_HEADER_SIZE].view(U64)
        column = heads[:, 1]
        self._nonces.counters[:count] = column
        if (heads - self._ramps[:count]).tobytes() == heads[0].tobytes() * count:
            return range(first, last + 1)
        counters: list[int] = column.tolist()
        if (
            (heads[:, 0] != heads[0, 0]).any()
            or not (column[1:] > column[:-1]).all()
            or counters[-1] >= REJECT_AFTER_MESSAGES
        ):
            return None
        return counters

    def _open(
        self,
        keypair: Keypair,
        counters: Sequence[int],
        views: Sequence[memoryview],
        clear_views: Sequence[memoryview],
    ) -> bool:
        """Decrypt all rows; False if one does not authenticate."""
        decrypt_into = keypair.receiver().decrypt_into
        sealed_views = self._tails.of(views)
        try:
            for nonce, sealed, clear in zip(
                self._nonces.views, sealed_views, clear_views, strict=False
            ):
                decrypt_into(nonce, sealed, None, clear)
        except InvalidTag:
            return False
        return True

    def _seal(self, keypair: Keypair, views: Sequence[memoryview], sealed: Rows) -> None:
        """Write headers as columns, then encrypt all rows behind them."""
        count = len(views)
        first = keypair.send_counter
        keypair.send_counter = first + count
        nonces = self._nonces.counters[:count]
        np.add(self._ramp[:count], first, out=nonces)
        heads = sealed.matrix[:, :TRANSPORT_HEADER_SIZE].view(U64)
        heads[:, 0] = TRANSPORT | keypair.remote_index << 32
        heads[:, 1] = nonces
        encrypt_into = keypair.sender().encrypt_into
        for nonce, clear, out in zip(
            self._nonces.views, views, self._tails.of(sealed.views), strict=False
        ):
            encrypt_into(nonce, clear, None, out)

    def _is_allowed(self, peer: Peer, clear: Matrix) -> bool:
        """Whether all rows are sound inner packets from one source that is this peer's."""
        count, size = clear.shape
        version = clear.item(0) >> 4
        if version == 4:
            start, source, base, minimum = clear[:, :4], clear[:, 12:16], 0, 20
        elif version == 6 and size >= 40:
            start, source, base, minimum = clear[:, :6], clear[:, 8:24], 40, 40
        else:
            return False
        packed = source[0].tobytes()
        if self._lookup(packed) is not peer or source.tobytes() != packed * count:
            return False
        # The bytes up to the length are mostly the same in all rows.
        if start.tobytes() == start[0].tobytes() * count:
            start = start[:1]
        elif (start[:, 0] >> 4 != version).any():
            return False
        lengths = [base + int.from_bytes(row) for row in start[:, -2:].tolist()]
        return minimum <= min(lengths) and max(lengths) <= size
