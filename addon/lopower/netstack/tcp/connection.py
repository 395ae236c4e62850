"""One connection: the state machine around a sender and a receiver (RFC 9293, 3.10).

Theory of operation. Every entry point (`receive`, `receive_burst`, `on_timer`, and what the proxy
calls) changes the books and asks the table for a `flush`; `flush` alone emits packets. So a burst
of segments is answered by one acknowledgement, and an acknowledgement is never late.
"""

from __future__ import annotations

from collections.abc import Hashable
from math import inf
from typing import Protocol

from lopower.bursts import Matrix
from lopower.netstack.events import IcmpErrorKind
from lopower.netstack.tcp.burst import BurstWriter, Sink, plain_acks
from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.receiver import MAX_WINDOW, Receiver
from lopower.netstack.tcp.sendbuffer import EMPTY, BufferPool
from lopower.netstack.tcp.sender import Sender
from lopower.netstack.tcp.sequence import MASK, unwrap
from lopower.netstack.tcp.state import (
    CLOSE,
    CLOSED,
    ESTABLISHED,
    FIN_ACKED,
    FIN_WAIT_2,
    PENDING,
    RESET_ERRORS,
    SYN_RCVD,
    SYN_SENT,
    SYNCHRONIZED,
    TAKES_DATA,
    TIME_WAIT,
    WRITABLE,
    State,
    TcpError,
)
from lopower.netstack.tcp.state import FIN as FIN_RECEIVED
from lopower.netstack.tcp.wire import (
    ACK,
    FIN,
    HEADER,
    RST,
    SYN,
    Buffer,
    Offer,
    Path,
    Segment,
    make_path,
    parse_offer,
    parse_sack,
    reverse,
    sack_option,
    syn_options,
)

MIN_MTU = 576  # an ICMP error may not talk us into smaller packets (RFC 5927, 7)
WHOLE = 1 << 62  # of read(): no limit
MAX_DUPLICATE_ACKS = 16  # sent in one flush, to a peer without SACK

_HARD_ERRORS = {
    IcmpErrorKind.PORT_UNREACHABLE: TcpError.REFUSED,
    IcmpErrorKind.PROTOCOL_UNREACHABLE: TcpError.REFUSED,
    IcmpErrorKind.PROHIBITED: TcpError.UNREACHABLE,
    IcmpErrorKind.HOST_UNREACHABLE: TcpError.UNREACHABLE,
    IcmpErrorKind.NET_UNREACHABLE: TcpError.UNREACHABLE,
}
"""During the handshake these end it; afterwards none does (RFC 5927, 5.2)."""


class Host(Protocol):
    """What a connection asks of its table."""

    config: TcpConfig
    pool: BufferPool
    writer: BurstWriter

    def wake(self, connection: TcpConnection) -> None:
        """It wants a flush."""

    def notify(self, connection: TcpConnection) -> None:
        """Its owner should look at it."""

    def schedule(self, connection: TcpConnection, deadline: float) -> None:
        """It wants `on_timer` then, or earlier than it did before."""

    def established(self, connection: TcpConnection) -> None:
        """It has left the backlog."""

    def forget(self, connection: TcpConnection) -> None:
        """It is over."""

    def linger(self, connection: TcpConnection, now: float) -> None:
        """It goes on as a TIME-WAIT record."""

    def send(self, link: Hashable, packet: bytes) -> None:
        """A packet for the next flush."""

    def may_challenge(self, now: float) -> bool:
        """Whether one more challenge ACK may be sent (RFC 5961, 7)."""


class Handshake:
    """What is only needed until the connection is established."""

    __slots__ = ("due", "offer", "peer_initial", "repeat_at", "sent_at", "tries")

    def __init__(self) -> None:
        self.offer: Offer | None = None  # of the peer's SYN
        self.peer_initial = 0  # IRS
        self.due = False  # our SYN or SYN-ACK is to be sent
        self.repeat_at = inf
        self.sent_at = 0.0
        self.tries = 0


class TcpConnection:
    """A TCP connection with a device; `remote` is the device, `local` who we are to it."""

    __slots__ = (
        "_ack_at",
        "_acks",
        "_challenged_at",
        "_expires_at",
        "_handshake",
        "_heard_at",
        "_host",
        "_orphan",
        "_probes",
        "_soft_error",
        "awake",
        "error",
        "in_backlog",
        "initial",
        "key",
        "link",
        "notified",
        "owner",
        "path",
        "receiver",
        "scheduled",
        "sender",
        "state",
    )

    receiver: Receiver
    sender: Sender

    def __init__(self, host: Host, link: Hashable, key: bytes, initial: int, state: State) -> None:
        self._host = host
        self.link = link
        self.key = key
        self.initial = initial  # ISS
        self.state = state
        self.owner: object | None = None
        self.error: TcpError | None = None
        self.path: Path | None = None
        self._handshake: Handshake | None = Handshake()
        self._ack_at = inf  # when to acknowledge a small segment that waits for data to go with
        self._acks = 0  # acknowledgements to send with the next flush
        self._challenged_at = -inf
        self._expires_at = inf
        self._heard_at = 0.0
        self._orphan = False
        self._probes = 0  # keepalives without an answer
        self._soft_error: TcpError | None = None
        self.awake = False
        self.in_backlog = False
        self.notified = False
        self.scheduled = inf

    # What the owner sees

    @property
    def local(self) -> tuple[bytes, int]:
        """The address and port that the device talks to."""
        key = self.key
        if len(key) == 12:
            return key[4:8], int.from_bytes(key[10:12])
        return key[16:32], int.from_bytes(key[34:36])

    @property
    def remote(self) -> tuple[bytes, int]:
        """The device's address and port."""
        key = self.key
        if len(key) == 12:
            return key[:4], int.from_bytes(key[8:10])
        return key[:16], int.from_bytes(key[32:34])

    @property
    def readable(self) -> int:
        """Bytes that `read` would return; there may be some after the connection is closed."""
        return self.receiver.readable if self._opened else 0

    @property
    def eof(self) -> bool:
        """The device has sent its FIN, and everything before it has been read."""
        return self._opened and self.receiver.finished and not self.receiver.readable

    @property
    def established(self) -> bool:
        """The handshake is complete, and the connection not over."""
        return self.state in SYNCHRONIZED

    @property
    def closed(self) -> bool:
        """Nothing more will come or go; `error` says why if it was not by FINs."""
        return self.state is CLOSED or self.state is TIME_WAIT

    @property
    def mss(self) -> int:
        """The payload of a full segment."""
        return self.sender.mss if self._opened else self._our_mss()

    @property
    def _opened(self) -> bool:
        return self.path is not None

    def read(self, limit: int = WHOLE) -> bytes:
        """In-order bytes; `b""` when there are none."""
        if not self._opened:
            return b""
        receiver = self.receiver
        data = receiver.read(limit)
        if data and receiver.wants_update() and self.state in TAKES_DATA:
            self._acks = self._acks or 1
            self._host.wake(self)
        return data

    def write_space(self) -> int:
        """How many bytes `write` would take."""
        if not self._writable():
            return 0
        return max(self.sender.bound() - len(self.sender.buffer), 0)

    def reserve(self, limit: int) -> memoryview:
        """Free adjacent space of the send buffer, at most `limit` bytes, until `commit`."""
        if not self._writable():
            return EMPTY
        self._host.wake(self)
        return self.sender.buffer.reserve(limit, self.sender.bound())

    def commit(self, count: int, now: float) -> None:
        """The first `count` bytes that were reserved are to be sent."""
        if self._writable():
            self.sender.buffer.commit(count)
            self._host.wake(self)

    def write(self, data: bytes | bytearray | memoryview, now: float) -> int:
        """Send as much of `data` as there is space for; returns how much that is."""
        if not self._writable():
            return 0
        count = self.sender.buffer.write(data, self.sender.bound())
        if count:
            self._host.wake(self)
        return count

    def _writable(self) -> bool:
        return self.state in WRITABLE and self._opened and not self.sender.closing

    # What the owner asks for

    def accept(self, now: float) -> None:
        """Answer the SYN: the destination has been reached."""
        handshake = self._handshake
        if self.state is not PENDING or handshake is None:
            return
        self._open()
        self._negotiate(handshake)
        self.state = SYN_RCVD
        self._expires_at = inf
        handshake.due = True
        self._host.wake(self)

    def refuse(self, now: float) -> None:
        """Answer the SYN with RST: the destination has refused."""
        handshake = self._handshake
        if self.state is PENDING and handshake is not None:
            self._send_reset(0, handshake.peer_initial + 1)
            self._finish(None)

    def ignore(self) -> None:
        """Do not answer the SYN at all: the destination has not answered either."""
        if self.state is PENDING:
            self._finish(None)

    def syn_packet(self) -> bytes:
        """The device's SYN, for an ICMP error about it; the options are left out."""
        handshake = self._handshake
        initial = handshake.peer_initial if handshake is not None else 0
        return make_path(reverse(self.key)).build(initial, 0, SYN, 0)

    def close(self, now: float) -> None:
        """Send a FIN after the buffered bytes; what the device sends can still be read."""
        state = self.state
        if state is PENDING:
            self.refuse(now)
        elif state is SYN_SENT:
            self._finish(None)
        elif state in WRITABLE and not self.sender.closing:
            self.sender.closing = 1
            self.state = CLOSE.get(state, state)
            self._host.wake(self)

    def release(self, now: float) -> None:
        """Close, and nobody will read any more: the rest is up to TCP, for a limited time.

        As in Linux, unread data means RST (RFC 9293, 3.6.1; RFC 2525, 2.17).
        """
        if self.readable and not self.closed:
            self.abort(now)
            return
        self.close(now)
        if self.closed:
            return
        self._orphan = True
        self.owner = None
        if self.state is FIN_WAIT_2:
            self._expires_at = now + self._host.config.fin_wait_2
        self._host.wake(self)

    def abort(self, now: float) -> None:
        """RST, and everything is forgotten."""
        if self.state is PENDING:
            self.refuse(now)
        elif self.state is SYN_SENT:
            self._finish(TcpError.ABORTED)
        elif not self.closed:
            self._send_reset(self.sender.nxt, self.receiver.nxt)
            self._finish(TcpError.ABORTED)

    def drop(self, error: TcpError) -> None:
        """The link is gone: end without a packet."""
        if not self.closed:
            self._finish(error)

    # Opening

    def request(self, segment: Segment, now: float) -> None:
        """A SYN has come for a connection that the owner has not decided about."""
        handshake = self._handshake
        assert handshake is not None
        handshake.offer = parse_offer(segment)
        handshake.peer_initial = segment.sequence
        self._expires_at = now + self._host.config.request_timeout
        self._reschedule()

    def start(self, now: float) -> None:
        """Active open: send a SYN."""
        handshake = self._handshake
        assert handshake is not None
        self._open()
        self.sender.negotiate(self._our_mss(), 0, False, 0, 0)
        self.receiver = Receiver(self._host.config, 0, 0, 0)
        handshake.due = True
        self._host.wake(self)

    def _open(self) -> None:
        host = self._host
        self.path = make_path(self.key)
        self.sender = Sender(host.config, host.pool, self.initial)

    def _our_mss(self) -> int:
        return self._host.config.mtu - (40 if len(self.key) == 12 else 60)

    def _negotiate(self, handshake: Handshake) -> None:
        """Both SYNs are known: what applies to the connection (RFC 7323, RFC 2018)."""
        offer, initial = handshake.offer, handshake.peer_initial
        assert offer is not None
        config = self._host.config
        our_mss = self._our_mss()
        mss = min(our_mss, offer.mss)
        shift = 0 if offer.shift is None else config.window_shift
        self.sender.negotiate(mss, offer.shift or 0, offer.sack, offer.window, initial)
        self.receiver = Receiver(config, initial, our_mss, shift)

    def _emit_syn(self, handshake: Handshake, now: float, sink: Sink) -> None:
        handshake.due = False
        path, offer, config = self.path, handshake.offer, self._host.config
        assert path is not None
        shift = config.window_shift if offer is None or offer.shift is not None else None
        options = syn_options(self._our_mss(), shift, offer is None or offer.sack)
        window = min(config.receive_buffer, MAX_WINDOW)
        flags, ack = SYN, 0
        if self.state is SYN_RCVD:
            flags, ack = SYN | ACK, self.receiver.nxt
        sink.packet(self.link, path.build(self.initial, ack, flags, window, options))
        self.sender.nxt = self.initial + 1
        if handshake.repeat_at == inf:  # else it answers a SYN that came again
            handshake.sent_at = now
            handshake.repeat_at = now + self.sender.rtt.backed_off(handshake.tries)

    def _repeat_syn(self, handshake: Handshake) -> None:
        config = self._host.config
        retries = config.syn_retries if self.state is SYN_SENT else config.syn_ack_retries
        if handshake.tries >= retries:
            self._finish(self._soft_error or TcpError.TIMED_OUT)
            return
        handshake.tries += 1
        handshake.due = True
        handshake.repeat_at = inf
        self._host.wake(self)

    def _establish(self, handshake: Handshake, now: float) -> None:
        self.sender.establish(now, handshake.sent_at, handshake.tries)
        self._handshake = None
        self.state = ESTABLISHED
        if self.sender.closing:
            self.state = CLOSE[ESTABLISHED]
        self._host.established(self)
        self._host.notify(self)

    # Segments

    def receive(self, segment: Segment, now: float) -> None:
        """A segment of this connection."""
        self._heard_at = now
        self._probes = 0
        state = self.state
        if state in SYNCHRONIZED or state is SYN_RCVD:
            self._receive_synchronized(segment, now)
        elif state is SYN_SENT:
            self._receive_syn_sent(segment, now)
        elif state is PENDING:
            self._receive_pending(segment, now)
        else:
            return
        self._host.wake(self)

    def _receive_pending(self, segment: Segment, now: float) -> None:
        """Repeated SYNs are absorbed; the device may change its mind."""
        handshake = self._handshake
        assert handshake is not None
        flags, initial = segment.flags, handshake.peer_initial
        if flags & RST:
            if segment.sequence in (initial, (initial + 1) & MASK):
                self._finish(TcpError.RESET)
        elif flags & SYN and not flags & ACK and segment.sequence != initial:
            self.request(segment, now)  # the device has started again

    def _receive_syn_sent(self, segment: Segment, now: float) -> None:
        """RFC 9293, 3.10.7.3."""
        flags, sender, handshake = segment.flags, self.sender, self._handshake
        assert handshake is not None
        acceptable = sender.nxt > sender.una and segment.acknowledgment == sender.nxt & MASK
        if flags & ACK and not acceptable:
            if not flags & RST:
                self._send_reset(segment.acknowledgment, 0, bare=True)
            return
        if flags & RST:
            if flags & ACK:
                self._finish(TcpError.REFUSED)
            return
        if not flags & SYN:
            return
        handshake.offer = parse_offer(segment)
        handshake.peer_initial = segment.sequence
        self._negotiate(handshake)
        if flags & ACK:
            self._establish(handshake, now)
            self._acks = 1
        else:  # simultaneous open
            self.state = SYN_RCVD
            handshake.due = True

    def _receive_synchronized(self, segment: Segment, now: float) -> None:
        """RFC 9293, 3.10.7.4, with the checks of RFC 5961."""
        receiver = self.receiver
        flags = segment.flags
        payload = segment.payload
        nxt = receiver.nxt
        sequence = unwrap(segment.sequence, nxt)
        fin = flags & FIN
        length = len(payload) + fin
        if flags & (SYN | RST) or not self._acceptable(sequence, length):
            self._receive_odd(segment, sequence, length, now)
            return
        if not flags & ACK or not self._receive_ack(segment, sequence, length, now):
            return
        if length and self.state in TAKES_DATA:
            self._receive_data(sequence, payload, fin != 0, now)

    def _acceptable(self, sequence: int, length: int) -> bool:
        """Whether a segment overlaps the window; its edge counts, senders stand there."""
        receiver = self.receiver
        nxt, edge = receiver.nxt, receiver.edge + receiver.slack
        if not length:
            return nxt <= sequence <= edge or sequence == nxt
        return sequence + length > nxt and (sequence < edge or sequence == nxt)

    def _receive_odd(self, segment: Segment, sequence: int, length: int, now: float) -> None:
        """SYN, RST, and what is outside the window."""
        receiver = self.receiver
        flags = segment.flags
        if flags & RST:
            if sequence == receiver.nxt:
                self._finish(RESET_ERRORS.get(self.state, TcpError.RESET))
            elif receiver.nxt < sequence <= receiver.edge:
                self._challenge(now)
        elif flags & SYN:
            self._receive_syn(segment, now)
        elif length:
            if sequence + length <= receiver.nxt and len(segment.payload):
                receiver.duplicate = (sequence, sequence + len(segment.payload))
            self._acks += 1
            # The text is old, the acknowledgement need not be.
            if flags & ACK and self.state is not SYN_RCVD and sequence <= receiver.edge:
                self._receive_ack(segment, sequence, length, now)
        else:
            self._challenge(now)

    def _receive_syn(self, segment: Segment, now: float) -> None:
        """A SYN where one has come before."""
        handshake = self._handshake
        if handshake is None or segment.sequence != handshake.peer_initial:
            self._challenge(now)
        elif segment.flags & ACK and segment.acknowledgment == self.sender.nxt & MASK:
            self._establish(handshake, now)  # the other half of a simultaneous open
            self._acks = 1
        else:
            handshake.due = True
            handshake.tries += 1  # counts as a repetition, and for Karn's algorithm

    def _challenge(self, now: float) -> None:
        """An ACK that tells an honest peer where we are (RFC 5961)."""
        config = self._host.config
        if now - self._challenged_at >= config.challenge_interval and self._host.may_challenge(now):
            self._challenged_at = now
            self._acks = self._acks or 1

    def _receive_ack(self, segment: Segment, sequence: int, length: int, now: float) -> bool:
        """The ACK field; returns whether the rest of the segment counts."""
        sender = self.sender
        ack = unwrap(segment.acknowledgment, sender.una)
        handshake = self._handshake
        if handshake is not None:
            if ack != sender.nxt or ack == sender.una:
                self._send_reset(segment.acknowledgment, 0, bare=True)
                return False
            self._establish(handshake, now)
        if ack > sender.nxt or ack < sender.una - max(sender.max_window, MAX_WINDOW):
            self._challenge(now)
            return False
        changed = sender.update_window(sequence, ack, segment.window)
        blocks: list[tuple[int, int]] | tuple[()] = ()
        if segment.options and sender.sack:
            blocks = parse_sack(segment.options)
        if ack < sender.una:
            if blocks:
                sender.acknowledge(sender.una, blocks, False, now)
            return True
        plain = not length and not changed and ack == sender.una
        if sender.acknowledge(ack, blocks, plain, now):
            self._acknowledged(now)
        return self.state is not CLOSED and self.state is not TIME_WAIT

    def _acknowledged(self, now: float) -> None:
        """SND.UNA has moved: there is space, or our FIN has arrived."""
        if self.sender.fin_acked:
            state = self.state = FIN_ACKED.get(self.state, self.state)
            if state is CLOSED:
                self._finish(None)
                return
            if state is TIME_WAIT:
                self._linger(now)
                return
            if state is FIN_WAIT_2 and self._orphan:
                self._expires_at = now + self._host.config.fin_wait_2
        self._host.notify(self)

    def _receive_data(self, sequence: int, payload: Buffer, fin: bool, now: float) -> None:
        receiver = self.receiver
        if self._orphan and len(payload) and sequence + len(payload) > receiver.nxt:
            self.abort(now)  # nobody will ever read it
            return
        waiting = self._acks
        self._acks += 1
        if not receiver.receive(sequence, payload, fin):
            return
        receiver.tune(now)
        self._acks = 1
        if not (fin or waiting or receiver.queue is not None or self._ack_at < inf):
            self._delay_ack(len(payload), now)
        if receiver.finished:
            self._receive_fin(now)
        self._host.notify(self)

    def _delay_ack(self, length: int, now: float) -> None:
        """Let the acknowledgement of a small segment wait for data; the next will not wait."""
        delay = self._host.config.ack_delay
        if delay and length < self.receiver.mss:
            self._acks = 0
            self._ack_at = now + delay

    def _receive_fin(self, now: float) -> None:
        self.state = FIN_RECEIVED.get(self.state, self.state)
        if self.state is TIME_WAIT:
            self._linger(now)

    # Bursts

    def receive_burst(self, packets: Matrix, header: int, length: int, now: float) -> bool:
        """All rows are the next plain segments: one step. Otherwise `False`, nothing changed."""
        payload = length - header - HEADER
        if payload < 0 or not self._takes_burst(payload):
            return False
        receiver, sender = self.receiver, self.sender
        count = len(packets)
        nxt = receiver.nxt
        if nxt + count * payload > receiver.edge or not sender.undisturbed:
            return False
        una = sender.una
        found = plain_acks(packets, header, payload, nxt, una, sender.nxt - una)
        if found is None:
            return False
        ack, window = una + ((found[0] - una) & MASK), found[1]
        self._heard_at = now
        self._probes = 0
        sender.update_window(nxt + (count - 1) * payload, ack, window)
        if sender.acknowledge(ack, (), False, now):
            self._acknowledged(now)
        if payload and self.state in TAKES_DATA:
            receiver.deliver(packets[:, header + HEADER : length].tobytes())
            receiver.tune(now)
            self._acks = 1
            self._host.notify(self)
        self._host.wake(self)
        return True

    def _takes_burst(self, payload: int) -> bool:
        """Whether nothing but plain, in-order segments is expected."""
        if not payload:
            return self.state in SYNCHRONIZED
        if self.state not in TAKES_DATA or self._orphan:
            return False
        return self.receiver.queue is None and self.receiver.fin_at == inf

    # ICMP

    def icmp_error(self, kind: IcmpErrorKind, sequence: int | None, mtu: int) -> None:
        """An ICMP error about a segment of ours (RFC 5927, RFC 9293 3.9.2.2)."""
        if self.state is PENDING or sequence is None:
            return
        sender = self.sender
        at = unwrap(sequence, sender.una)
        if not sender.una <= at < max(sender.nxt, sender.una + 1):
            return
        if kind is IcmpErrorKind.TOO_BIG:
            self._too_big(mtu)
            return
        error = _HARD_ERRORS.get(kind)
        if error is not None and self.state is SYN_SENT:
            self._finish(error)
        else:
            self._soft_error = TcpError.UNREACHABLE

    def _too_big(self, mtu: int) -> None:
        header = 40 if len(self.key) == 12 else 60
        mss = max(mtu, MIN_MTU) - header
        if self.established and mss < self.sender.mss:
            self.sender.shrink(mss)
            self._host.wake(self)

    # Output

    def flush(self, now: float, sink: Sink) -> None:
        """Emit what is due."""
        state = self.state
        if state in SYNCHRONIZED:
            self._flush_data(now, sink)
        elif self._handshake is not None:
            if self._handshake.due:
                self._emit_syn(self._handshake, now, sink)
        elif state is TIME_WAIT and self._acks:
            self._emit_ack(sink, self.receiver.window())
        if not self.closed:
            self._reschedule()

    def _flush_data(self, now: float, sink: Sink) -> None:
        sender, receiver = self.sender, self.receiver
        path = self.path
        assert path is not None
        window = -1
        if self._acks and (receiver.queue is not None or receiver.duplicate is not None):
            window = receiver.window()
            self._emit_ack(sink, window)  # data would leave no room for SACK
        pieces = sender.plan(now)
        if not pieces and not self._acks and not sender.window_probe_due:
            return
        if window < 0:
            window = receiver.window()
        if pieces:
            self._acks = 0
            self._ack_at = inf
            self._host.writer.write(
                sink, self.link, path, sender.buffer, pieces, sender.mss, receiver.nxt, window
            )
        elif self._acks:
            self._emit_ack(sink, window)
        if sender.window_probe_due:
            # An old sequence number, no data: unacceptable, so the peer must answer.
            sink.packet(self.link, path.build(sender.una - 1, receiver.nxt, ACK, window))
            sender.window_probe_due = False

    def _emit_ack(self, sink: Sink, window: int) -> None:
        """Acknowledge; without SACK a peer counts duplicates, so each gets one."""
        path, receiver, sender = self.path, self.receiver, self.sender
        assert path is not None
        options = b""
        repeat = 1
        if receiver.queue is not None or receiver.duplicate is not None:
            blocks = receiver.sack_blocks()
            if sender.sack:
                options = sack_option(blocks)
            else:
                repeat = min(self._acks, MAX_DUPLICATE_ACKS)
        packet = path.build(sender.nxt, receiver.nxt, ACK, window, options)
        for _ in range(repeat):
            sink.packet(self.link, packet)
        self._acks = 0
        self._ack_at = inf

    def _send_reset(self, sequence: int, ack: int, *, bare: bool = False) -> None:
        """RST; `bare`: in answer to an ACK, so that it needs none itself."""
        path = self.path or make_path(self.key)
        flags = RST if bare else RST | ACK
        self._host.send(self.link, path.build(sequence, ack, flags, 0))

    # Timers

    def _deadline(self) -> float:
        if self._handshake is not None:
            return min(self._handshake.repeat_at, self._expires_at)
        sender = self.sender
        idle = self._keepalive_at() if sender.una == sender.nxt else inf
        return min(sender.deadline, idle, self._expires_at, self._ack_at)

    def _keepalive_at(self) -> float:
        config = self._host.config
        sender = self.sender
        if not config.keepalive_idle or sender.una != sender.nxt:
            return inf
        at = self._heard_at + config.keepalive_idle
        return at + self._probes * config.keepalive_interval

    def _reschedule(self) -> None:
        deadline = self._deadline()
        if deadline < self.scheduled:
            self._host.schedule(self, deadline)

    def on_timer(self, now: float) -> None:
        """`scheduled` has come; the deadline may have moved since."""
        if self.closed:
            return
        if self._expires_at <= now:
            self._expire(now)
            return
        handshake = self._handshake
        if handshake is None:
            if self._deadline() <= now:
                self._on_data_timer(now)
        elif handshake.repeat_at <= now:
            self._repeat_syn(handshake)
        if not self.awake and not self.closed:
            self._reschedule()  # else after the flush that follows

    def _expire(self, now: float) -> None:
        """A request nobody answered, or an orphan in FIN-WAIT-2."""
        self._finish(TcpError.TIMED_OUT if self.state is PENDING else None)

    def _on_data_timer(self, now: float) -> None:
        sender = self.sender
        if sender.deadline <= now and not sender.on_timer(now):
            self._finish(self._soft_error or TcpError.TIMED_OUT)
            return
        if self._ack_at <= now:
            self._acks = self._acks or 1
            self._ack_at = inf
        if self._keepalive_at() <= now:
            if self._probes >= self._host.config.keepalive_probes:
                self._send_reset(sender.nxt, self.receiver.nxt)
                self._finish(TcpError.TIMED_OUT)
                return
            self._probes += 1
            sender.window_probe_due = True
        self._host.wake(self)

    # Endings

    def _linger(self, now: float) -> None:
        """Both FINs are exchanged: TIME-WAIT, in the table."""
        self.sender.discard()
        self._host.linger(self, now)
        self._host.notify(self)

    def _finish(self, error: TcpError | None) -> None:
        self.state = CLOSED
        self.error = error
        self._handshake = None
        if self._opened:
            self.sender.discard()
            self.receiver.queue = None
            if self._orphan or error is TcpError.ABORTED:
                self.receiver.discard()
        self._host.forget(self)
        self._host.notify(self)
