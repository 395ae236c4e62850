"""The sending half: what to send when (RFC 9293, 5681, 6298, 6582, 6675, 6937, 8985).

Theory of operation. `acknowledge()` takes in what the peer says, `on_timer()` what the clock says;
both only change the books. `plan()` then says what goes out now: ranges to send again, then new
ones. It is called once per flush, and bounded; what is left goes with the next acknowledgement or
at `pace_at`, whichever is first.

Phases: OPEN; RECOVERY after a loss was detected, until what was in flight then is acknowledged;
LOSS after a retransmission timeout, the same. Timers: one of retransmission (`rto_at`), loss probe
(`probe_at`), reordering (`reorder_at`), persist (`persist_at`) and pacing; `inf` is off.
"""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final

from lopower.netstack.tcp.config import TcpConfig
from lopower.netstack.tcp.congestion import Congestion, make_congestion
from lopower.netstack.tcp.flight import NOTHING, Flight
from lopower.netstack.tcp.rtt import RttEstimator
from lopower.netstack.tcp.sendbuffer import BufferPool, SendBuffer
from lopower.netstack.tcp.sequence import unwrap
from lopower.netstack.tcp.wire import DEFAULT_MSS

DUPLICATE_THRESHOLD = 3  # RFC 5681
DELAYED_ACK = 0.2  # RFC 8985, 7.2: the worst case to expect of a peer with one segment in flight
PACING_GAIN_START = 2.0  # Linux' figures, against cwnd per SRTT
PACING_GAIN = 1.25
PACED_RTT = 0.002
"""On shorter paths an acknowledgement may end the pause: it is shorter than timers are exact."""
DEFER_WINDOW = 65536  # below it every acknowledgement counts: small devices never wait
SMALL_WINDOW = 32768  # a peer whose window never was larger gets a small buffer


class Phase(Enum):
    """Where the sender stands with regard to losses."""

    OPEN = "open"
    RECOVERY = "recovery"
    LOSS = "loss"


OPEN: Final = Phase.OPEN
RECOVERY: Final = Phase.RECOVERY
LOSS: Final = Phase.LOSS


class Sender:
    """Everything about what we send."""

    __slots__ = (
        "_backoff",
        "_config",
        "_duplicates",
        "_force",
        "_limited",
        "_probe_again",
        "_probe_end",
        "_progress_at",
        "_prr_delivered",
        "_prr_out",
        "_recovery_flight",
        "_recovery_point",
        "_reordering",
        "_round_end",
        "_sent_at",
        "_wl1",
        "_wl2",
        "buffer",
        "closing",
        "congestion",
        "flight",
        "max_window",
        "mss",
        "nxt",
        "pace_at",
        "persist_at",
        "phase",
        "probe_at",
        "reorder_at",
        "rto_at",
        "rtt",
        "sack",
        "shift",
        "una",
        "window",
        "window_probe_due",
    )

    congestion: Congestion
    phase: Phase

    def __init__(self, config: TcpConfig, pool: BufferPool, initial: int) -> None:
        self._config = config
        self.buffer = SendBuffer(pool, initial + 1)
        self.flight = NOTHING
        self._reordering = False
        self.rtt = RttEstimator(config)
        self.una = initial  # SND.UNA
        self.nxt = initial  # SND.NXT
        self.window = 0  # SND.WND
        self.max_window = 0
        self._wl1 = 0
        self._wl2 = initial
        self.mss = DEFAULT_MSS
        self.shift = 0
        self.sack = False
        self.closing = 0  # 1: a FIN follows the last byte
        self.phase = OPEN
        self._recovery_point = initial
        self._recovery_flight = 1
        self._prr_delivered = 0
        self._prr_out = 0
        self._duplicates = 0
        self._backoff = 0
        self._force = False
        self._limited = False
        self._probe_end = -1  # SND.NXT at the time of a loss probe, -1: none outstanding
        self._probe_again = False
        self._progress_at = 0.0
        self._round_end = initial
        self._sent_at = 0.0
        self.window_probe_due = False
        self.rto_at = self.probe_at = self.reorder_at = self.persist_at = self.pace_at = inf

    def negotiate(self, mss: int, shift: int, sack: bool, window: int, sequence: int) -> None:
        """What the peer's SYN says."""
        self.mss = mss
        self.shift = shift
        self.sack = sack
        self.window = self.max_window = window
        self._wl1 = sequence
        self.congestion = make_congestion(self._config, mss)

    def establish(self, now: float, syn_sent_at: float, tries: int) -> None:
        """Our SYN is acknowledged."""
        self.una = self.nxt = self._wl2 = self._round_end = self.buffer.start
        self._sent_at = self._progress_at = now
        if not tries:
            self.rtt.sample(now - syn_sent_at, now)
            return
        self.rtt.rto = max(self.rtt.rto, 3.0)  # RFC 6298, 5.7
        if tries > 1:
            self.congestion.cwnd = self.mss  # RFC 6928, 2

    @property
    def end(self) -> int:
        """The sequence number after all that is to be sent, a FIN included."""
        return self.buffer.end + self.closing

    @property
    def fin_acked(self) -> bool:
        """Whether the peer has everything, the FIN included."""
        return self.closing != 0 and self.una > self.buffer.end

    @property
    def deadline(self) -> float:
        """When `on_timer` is wanted."""
        return min(self.rto_at, self.probe_at, self.reorder_at, self.persist_at, self.pace_at)

    def bound(self) -> int:
        """How much the buffer may hold: two windows, so that there is always one to send."""
        config = self._config
        if self.max_window < SMALL_WINDOW:
            return max(config.min_send_buffer, 2 * self.max_window)
        wanted = 2 * min(self.congestion.cwnd, self.max_window)
        return min(max(config.send_buffer, wanted), config.max_send_buffer)

    @property
    def undisturbed(self) -> bool:
        """Nothing is known to be missing."""
        return self.phase is OPEN and not self.flight.sacked and not self._duplicates

    def shrink(self, mss: int) -> None:
        """A router wants smaller segments; the one that was too big goes again."""
        self.mss = mss
        self.flight.mark_first_lost(mss)

    def pipe(self) -> int:
        """Bytes believed to be in the network."""
        in_flight = self.flight.in_flight
        if self._duplicates and not self.sack:
            return max(in_flight - self._duplicates * self.mss, 0)
        return in_flight

    # Acknowledgements

    def update_window(self, sequence: int, ack: int, window: int) -> bool:
        """RFC 9293, 3.10.7.4: only newer segments may change the window; whether it changed."""
        if sequence < self._wl1 or (sequence == self._wl1 and ack < self._wl2):
            return False
        self._wl1 = sequence
        self._wl2 = ack
        window <<= self.shift
        if window == self.window:
            return False
        self.window = window
        if window > self.max_window:
            self.max_window = window
        return True

    def acknowledge(
        self, ack: int, blocks: list[tuple[int, int]] | tuple[()], plain: bool, now: float
    ) -> bool:
        """Take in an ACK and SACK blocks; `plain`: it could be a duplicate of RFC 5681.

        The caller has checked UNA <= ack <= NXT. Returns whether UNA has moved.
        """
        flight = self.flight
        if flight is NOTHING:
            if self.persist_at < inf:
                self._progress_at = now  # the window is closed, but the peer is alive
            return False
        before = flight.delivered
        flight.rtt = -1.0
        flight.original_delivered = flight.ambiguous = False
        advanced = ack > self.una
        if advanced:
            self._advance(ack, now)
        else:
            if plain and not self.sack:
                self._duplicates += 1
            if not self.window:
                self._progress_at = now  # the peer is alive, its window has shrunk to nothing
        duplicate = self._take_blocks(blocks, ack, now) if blocks else False
        rtt = -1.0 if flight.ambiguous else flight.rtt
        if rtt >= 0:
            self.rtt.sample(rtt, now)
            flight.min_rtt = self.rtt.min_rtt
            self._backoff = 0
        if self._probe_end >= 0 and ack >= self._probe_end:
            self._end_probe(ack, advanced, plain and not blocks, duplicate, now)
        delivered = flight.delivered - before
        if self.undisturbed:
            if delivered and self._limited:
                self.congestion.on_ack(delivered, rtt, self.rtt.srtt, now)
        else:
            self._react(delivered, advanced, plain, now)
        if advanced and ack >= self._round_end:
            self._round_end = self.nxt
            self.congestion.on_round()
        self._rearm(advanced, now)
        return advanced

    def _advance(self, ack: int, now: float) -> None:
        self.flight.acknowledge(ack, now)
        buffer = self.buffer
        if not self.sack and self._duplicates:
            # Each duplicate stood for one of the segments that are now acknowledged.
            gone = max((ack - self.una) // self.mss - 1, 0)
            self._duplicates = max(self._duplicates - gone, 0) if self.phase is RECOVERY else 0
        self.una = ack
        buffer.advance(min(ack, buffer.end))
        if self.phase is not LOSS:
            self._backoff = 0  # else when there is a measurement (RFC 6298, 5)
        self._progress_at = now

    def _take_blocks(self, blocks: list[tuple[int, int]] | tuple[()], ack: int, now: float) -> bool:
        """Enter SACK blocks on the scoreboard; returns whether a duplicate was reported."""
        duplicate = False
        flight = self.flight
        una = self.una
        # Ascending, so that one acknowledgement does not look like reordering.
        for start, end in sorted((unwrap(low, una), unwrap(high, una)) for low, high in blocks):
            if end <= ack:
                duplicate = duplicate or start < end
            elif ack < start < end <= self.nxt:
                flight.sack(start, end, now)
        return duplicate

    def _end_probe(self, ack: int, advanced: bool, bare: bool, duplicate: bool, now: float) -> None:
        """RFC 8985, 7.4: whether a loss probe has repaired a loss that nobody else noticed."""
        if not self._probe_again or duplicate:
            self._probe_end = -1
        elif ack > self._probe_end:
            self._probe_end = -1
            if self.phase is OPEN:
                self.congestion.on_congestion(now)
                self.congestion.cwnd = int(self.congestion.ssthresh)
        elif not advanced and bare:
            self._probe_end = -1  # both the original and the probe have arrived

    def _react(self, delivered: int, advanced: bool, plain: bool, now: float) -> None:
        """An acknowledgement while something is missing."""
        flight = self.flight
        before = self.phase
        if before is not OPEN and self.una >= self._recovery_point:
            self._leave_recovery()
        elif self.phase is LOSS and self.sack and flight.original_delivered:
            self.congestion.undo()  # F-RTO: the timeout was spurious (RFC 5682)
            flight.unmark_lost()
            self._leave_recovery()
        if self.sack:
            self._detect(now)
        else:
            delivered += self._count_duplicates(advanced, plain)
        if flight.lost and self.phase is OPEN:
            self._enter_recovery(now)
        if self.phase is RECOVERY:
            self._reduce(delivered)
        elif delivered and (self._limited if before is OPEN else self.phase is LOSS):
            self.congestion.on_ack(delivered, -1.0, self.rtt.srtt, now)

    def _detect(self, now: float) -> None:
        self.reorder_at = self.flight.detect_losses(self._reordering_window(), now)

    def _reordering_window(self) -> float:
        """RFC 8985, 6.2 step 4: patience, as long as it is not clear that something is lost."""
        flight = self.flight
        if not flight.reordering and (
            self.phase is not OPEN or flight.sacked >= DUPLICATE_THRESHOLD * self.mss
        ):
            return 0.0
        if self.rtt.min_rtt == inf:
            return 0.0
        return min(self.rtt.min_rtt / 4, self.rtt.srtt)

    def _count_duplicates(self, advanced: bool, plain: bool) -> int:
        """NewReno (RFC 6582); returns the bytes that a duplicate ACK stands for."""
        if advanced:
            if self.phase is RECOVERY:
                self.flight.mark_first_lost(self.mss)
            return 0
        if not plain or not self._duplicates:
            return 0
        if self.phase is OPEN and self._duplicates >= self._duplicate_threshold():
            self.flight.mark_first_lost(self.mss)
        return self.mss

    def _duplicate_threshold(self) -> int:
        """Three; less when fewer segments are in flight and none will follow (RFC 5827)."""
        if self.end > self.nxt and self.una + self.window >= self.nxt + self.mss:
            return DUPLICATE_THRESHOLD
        segments = -((self.una - self.nxt) // self.mss)
        return max(1, min(DUPLICATE_THRESHOLD, segments - 1))

    def _enter_recovery(self, now: float) -> None:
        self.congestion.on_congestion(now)
        self.phase = RECOVERY
        self._recovery_point = self.nxt
        self._recovery_flight = max(self.nxt - self.una, 1)
        self._prr_delivered = self._prr_out = 0
        self._probe_end = -1

    def _leave_recovery(self) -> None:
        if self.phase is RECOVERY:
            self.congestion.cwnd = int(self.congestion.ssthresh)
        self.phase = OPEN
        self._duplicates = 0

    def _reduce(self, delivered: int) -> None:
        """Proportional rate reduction (RFC 6937)."""
        self._prr_delivered += delivered
        congestion, pipe = self.congestion, self.pipe()
        ssthresh = int(congestion.ssthresh)
        if pipe > ssthresh:
            share = -(-self._prr_delivered * ssthresh // self._recovery_flight)
            count = share - self._prr_out
        else:
            count = max(self._prr_delivered - self._prr_out, delivered) + self.mss
            count = min(ssthresh - pipe, count)
        if not self._prr_out:
            count = max(count, self.mss)  # the fast retransmit itself
        congestion.cwnd = pipe + max(count, 0)

    # Timers

    def _rearm(self, advanced: bool, now: float) -> None:
        if self.una == self.nxt:
            self.rto_at = self.probe_at = self.reorder_at = inf
            self._reordering = self.flight.reordering
            self.flight = NOTHING
        elif advanced:
            self.rto_at = now + self.rtt.backed_off(self._backoff)
            self._arm_probe(now)
        elif self.flight.sacked:
            self.probe_at = inf

    def _arm_probe(self, now: float) -> None:
        """Schedule a tail loss probe (RFC 8985, 7.2)."""
        self.probe_at = inf
        flight = self.flight
        if self.phase is not OPEN or not self.sack or flight.sacked or self._probe_end >= 0:
            return
        timeout = 2 * self.rtt.srtt or 1.0
        if self.nxt - self.una <= self.mss:
            timeout += DELAYED_ACK
        if now + timeout < self.rto_at:
            self.probe_at = now + timeout

    def on_timer(self, now: float) -> bool:
        """A deadline has passed; returns False when the peer is given up."""
        if self.reorder_at <= now:
            self.reorder_at = inf
            self._detect(now)
            if self.flight.lost and self.phase is OPEN:
                self._enter_recovery(now)
                self._reduce(0)
        if self.rto_at <= now:
            return self._on_rto(now)
        if self.probe_at <= now:
            self.probe_at = inf
            self._probe(now)
        if self.persist_at <= now:
            return self._on_persist(now)
        return True

    def _on_rto(self, now: float) -> bool:
        if now - self._progress_at >= self._config.user_timeout:
            return False
        if self.phase is not LOSS:
            self.congestion.on_timeout(now)
        self.phase = LOSS
        self._recovery_point = self.nxt
        self._duplicates = 0
        self._probe_end = -1
        self.congestion.cwnd = self.mss
        self.flight.mark_all_lost()
        self._backoff += 1
        self.rto_at = now + self.rtt.backed_off(self._backoff)
        self.probe_at = self.reorder_at = inf
        return True

    def _probe(self, now: float) -> None:
        """Provoke an ACK for the tail (RFC 8985, 7.3): `plan` will send one segment."""
        self._force = True

    def _on_persist(self, now: float) -> bool:
        """The window stays closed (RFC 9293, 3.8.6.1), or too small to be worth filling."""
        if now - self._progress_at >= self._config.user_timeout:
            return False
        if self.una + self.window > self.nxt:
            self._force = True
        else:
            self.window_probe_due = True
        self._backoff += 1
        self.persist_at = now + self.rtt.backed_off(self._backoff)
        return True

    # What to send

    def plan(self, now: float) -> list[tuple[int, int]]:
        """Ranges to send now, in order: retransmissions first. They count as sent."""
        flight, force = self.flight, self._force
        if now < self.pace_at < inf and self.rtt.srtt > PACED_RTT and not force:
            return []
        self.pace_at = inf
        if self.nxt == self.buffer.end + self.closing and not flight.lost and not force:
            self.persist_at = inf
            if self.nxt == self.una:
                self.buffer.commit(0)  # what was reserved in vain
            return []
        pipe = self.pipe()
        allowance = self.congestion.cwnd - pipe
        budget = self._budget()
        pieces: list[tuple[int, int]] = []
        sent = 0
        if flight.lost:
            limit = min(allowance, budget) if pipe else max(min(allowance, budget), self.mss)
            pieces = flight.take_lost(limit, self.mss, now)
            sent = sum(end - start for start, end in pieces)
        if not flight.lost and (flight is NOTHING or not flight.full):
            count = self._new_data(allowance - sent, budget - sent, now)
            if count:
                pieces.append(self._send_new(count, now))
                sent += count
        if force:
            sent += self._send_probe(pieces, now)
        self._after(pieces, sent, budget, now)
        return pieces

    def _budget(self) -> int:
        """Bytes for one flush: a burst, or several where a quarter of the window is more."""
        burst = self._config.burst_segments * self.mss
        if self.rtt.srtt > PACED_RTT:
            return burst
        return max(burst, min(self.congestion.cwnd >> 2, self._config.max_bursts * burst))

    def _send_new(self, count: int, now: float) -> tuple[int, int]:
        start, flight = self.nxt, self.flight
        if flight is NOTHING:
            config = self._config
            flight = Flight(start, config.max_runs, self.rtt.min_rtt, self._reordering)
            self.flight = flight
        self.nxt = end = start + count
        flight.sent(start, end, now)
        return start, end

    def _new_data(self, allowance: int, budget: int, now: float) -> int:
        """How many new bytes may go (RFC 9293, 3.8.6.2.1), a FIN counted as one."""
        pending = self.end - self.nxt
        if not pending:
            return 0
        if self.una == self.nxt and now - self._sent_at > self.rtt.rto:
            before = self.congestion.cwnd
            self.congestion.on_idle(now - self._sent_at, self.rtt.rto)
            self._sent_at = now
            allowance += self.congestion.cwnd - before
        usable = self.una + self.window - self.nxt
        limit = min(usable, allowance, budget)
        mss = self.mss
        if limit == allowance < pending and self._may_wait(limit):
            return 0
        if pending <= limit:
            if self._config.nagle and pending < mss and self.una < self.nxt and not self.closing:
                return 0
            return pending
        if limit >= mss:
            return limit - limit % mss
        if limit == usable and usable > 0 and usable >= self.max_window >> 1:
            return usable
        if limit == allowance and self.una == self.nxt and usable >= mss:
            return mss
        return 0

    def _may_wait(self, limit: int) -> bool:
        """Whether the next acknowledgement will allow a longer burst (Linux' TSO deferral)."""
        window = self.congestion.cwnd
        return (
            limit < window >> 2
            and window >= DEFER_WINDOW
            and self.rtt.srtt <= PACED_RTT
            and self.phase is OPEN
            and self.nxt - self.una > window >> 1
        )

    def _send_probe(self, pieces: list[tuple[int, int]], now: float) -> int:
        """A segment that the rules would not send: it has been asked for by a timer."""
        self._force = False
        if pieces:
            return 0
        usable = self.una + self.window - self.nxt
        count = min(usable, self.end - self.nxt, self.mss)
        loss_probe = self.una < self.nxt
        if count > 0:
            pieces.append(self._send_new(count, now))
        elif loss_probe:
            pieces.append(self.flight.take_last(self.mss, now))
        if loss_probe:
            self._probe_end = self.nxt
            self._probe_again = count <= 0
            self.rto_at = now + self.rtt.rto
        return max(count, 0)

    def _after(self, pieces: list[tuple[int, int]], sent: int, budget: int, now: float) -> None:
        """The books after a plan: timers, pacing, and whether the window held us back."""
        pending = self.end - self.nxt
        if not pieces:
            if self.una == self.nxt and pending and self.persist_at == inf:
                self.persist_at = now + self.rtt.backed_off(self._backoff)
            return
        if self.persist_at < inf:
            self.persist_at = inf
            self._backoff = 0
        if self.phase is RECOVERY:
            self._prr_out += sent
        if self.rto_at == inf:
            self.rto_at = now + self.rtt.backed_off(self._backoff)
            self._progress_at = now
        elif pieces[0][0] == self.una and self.phase is not OPEN:
            self.rto_at = now + self.rtt.backed_off(self._backoff)
        self._sent_at = now
        self._arm_probe(now)
        congestion = self.congestion
        room = congestion.cwnd - self.pipe()
        self._limited = room < self.mss or (
            congestion.cwnd < congestion.ssthresh and 2 * room <= congestion.cwnd
        )
        if sent + self.mss > budget and room >= self.mss and (pending or self.flight.lost):
            self._pace(sent, now)

    def _pace(self, sent: int, now: float) -> None:
        """The bound on bursts was reached: the rest goes a fraction of a round trip later."""
        congestion = self.congestion
        gain = PACING_GAIN_START if congestion.cwnd < congestion.ssthresh else PACING_GAIN
        round_trip = min(self.rtt.srtt, 2 * self.rtt.min_rtt)
        self.pace_at = now + sent * round_trip / (congestion.cwnd * gain)

    def discard(self) -> None:
        """The connection is over."""
        self.buffer.discard()
        self.flight = NOTHING
        self.rto_at = self.probe_at = self.reorder_at = self.persist_at = self.pace_at = inf
