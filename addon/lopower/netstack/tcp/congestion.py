"""Congestion control: one small interface, NewReno (RFC 5681) and CUBIC (RFC 9438).

Windows are in bytes. Both start with the same slow start, limited (RFC 3742) and left early when
the round-trip time grows (HyStart++, RFC 9406).
"""

from __future__ import annotations

from math import inf
from typing import Protocol

from lopower.netstack.tcp.config import TcpConfig

MIN_WINDOW = 2  # segments, after a loss


class Congestion(Protocol):
    """What the sender asks of a congestion control."""

    cwnd: int
    ssthresh: float

    def on_ack(self, acked: int, rtt: float, srtt: float, now: float) -> None:
        """`acked` bytes arrived while the window was what held us back; `rtt` < 0: not measured."""

    def on_round(self) -> None:
        """What was in flight when this was last called has been acknowledged."""

    def on_congestion(self, now: float) -> None:
        """A loss: `ssthresh` becomes the window to recover to; `cwnd` is left to recovery."""

    def on_timeout(self, now: float) -> None:
        """The retransmission timer expired for the first time."""

    def on_idle(self, idle: float, rto: float) -> None:
        """Nothing was sent for longer than an RTO (RFC 5681, 4.1; RFC 2861)."""

    def undo(self) -> None:
        """The last `on_timeout` or `on_congestion` was a mistake."""


class SlowStart:
    """When to leave slow start: HyStart++ (RFC 9406), on round-trip samples."""

    __slots__ = ("_baseline", "_cautious_rounds", "_last", "_now", "_samples")

    MIN_THRESHOLD = 0.004
    MAX_THRESHOLD = 0.016
    SAMPLES = 8
    CAUTIOUS_ROUNDS = 5
    CAUTIOUS_DIVISOR = 4

    def __init__(self) -> None:
        self._last = inf  # the smallest round-trip time of the last round, of this one
        self._now = inf
        self._samples = 0
        self._baseline = inf
        self._cautious_rounds = 0

    @property
    def cautious(self) -> bool:
        """Conservative slow start: the delay has grown once."""
        return self._cautious_rounds > 0

    def sample(self, rtt: float) -> None:
        """A measurement in slow start."""
        if rtt < self._now:
            self._now = rtt
        self._samples += 1
        if self._samples < self.SAMPLES or self._last == inf:
            return
        if self._cautious_rounds:
            if self._now < self._baseline:
                self._cautious_rounds = 0  # it was jitter
                self._baseline = inf
            return
        threshold = min(max(self._last / 8, self.MIN_THRESHOLD), self.MAX_THRESHOLD)
        if self._now >= self._last + threshold:
            self._baseline = self._now
            self._cautious_rounds = 1

    def end_round(self) -> bool:
        """A round trip is over; returns whether slow start is."""
        self._last, self._now = self._now, inf
        self._samples = 0
        if self._cautious_rounds:
            self._cautious_rounds += 1
        return self._cautious_rounds > self.CAUTIOUS_ROUNDS


class NewReno:
    """RFC 5681, and the slow start both share."""

    __slots__ = ("_acked", "_before", "_limit", "_mss", "_start", "cwnd", "ssthresh")

    BETA = 0.5

    def __init__(self, config: TcpConfig, mss: int) -> None:
        self._mss = mss
        self._limit = config.limited_slow_start
        self._acked = 0
        self._start: SlowStart | None = None  # made with the first measurement
        self._before: tuple[int, float] | None = None
        self.cwnd = config.initial_window * mss
        self.ssthresh: float = inf

    def on_ack(self, acked: int, rtt: float, srtt: float, now: float) -> None:
        if self.cwnd < self.ssthresh:
            self._slow_start(acked, rtt)
        else:
            self._avoid(acked, srtt, now)

    def on_round(self) -> None:
        if self._start is not None and self.cwnd < self.ssthresh and self._start.end_round():
            self.ssthresh = self.cwnd
            self._start = None

    def on_congestion(self, now: float) -> None:
        self._before = (self.cwnd, self.ssthresh)
        self.ssthresh = max(int(self.cwnd * self.BETA), MIN_WINDOW * self._mss)
        self._acked = 0

    def on_timeout(self, now: float) -> None:
        self.on_congestion(now)

    def on_idle(self, idle: float, rto: float) -> None:
        floor = 10 * self._mss
        self.ssthresh = max(self.ssthresh, self.cwnd * 3 // 4) if self.ssthresh < inf else inf
        while idle > rto and self.cwnd > floor:
            self.cwnd = max(self.cwnd // 2, floor)
            idle -= rto

    def undo(self) -> None:
        if self._before is not None:
            cwnd, ssthresh = self._before
            self.cwnd = max(self.cwnd, cwnd)
            self.ssthresh = max(self.ssthresh, ssthresh)
            self._before = None

    def _slow_start(self, acked: int, rtt: float) -> None:
        start = self._start
        if rtt >= 0 and self.ssthresh == inf:
            if start is None:
                start = self._start = SlowStart()
            start.sample(rtt)
        if start is not None and start.cautious:
            acked //= SlowStart.CAUTIOUS_DIVISOR
        if self.cwnd > self._limit:
            acked = acked * self._limit // (2 * self.cwnd)
        self.cwnd = int(min(self.cwnd + acked, max(self.ssthresh, self.cwnd + 1)))

    def _avoid(self, acked: int, srtt: float, now: float) -> None:
        self._acked += acked
        grown = self._acked * self._mss // self.cwnd
        if grown:
            self._acked -= grown * self.cwnd // self._mss
            self.cwnd += grown


class Cubic(NewReno):
    """RFC 9438: the window grows with the time since the last loss, whatever the round trip."""

    __slots__ = ("_epoch", "_estimate", "_k", "_last_ack", "_w_max")

    BETA = 0.7
    C = 0.4
    ALPHA = 3 * (1 - BETA) / (1 + BETA)

    def __init__(self, config: TcpConfig, mss: int) -> None:
        super().__init__(config, mss)
        self._epoch = -1.0  # when avoidance began, negative for not yet
        self._k = 0.0
        self._w_max = 0.0
        self._estimate = 0.0

    def on_congestion(self, now: float) -> None:
        cwnd = self.cwnd
        # Fast convergence (4.7): give way to new flows.
        self._w_max = cwnd * (1 + self.BETA) / 2 if cwnd < self._w_max else float(cwnd)
        self._epoch = -1.0
        super().on_congestion(now)

    def on_idle(self, idle: float, rto: float) -> None:
        super().on_idle(idle, rto)
        if self._epoch >= 0:
            self._epoch += idle

    def undo(self) -> None:
        super().undo()
        self._epoch = -1.0

    def _avoid(self, acked: int, srtt: float, now: float) -> None:
        mss, cwnd = self._mss, self.cwnd
        if self._epoch < 0:
            self._begin_epoch(now)
        elapsed = now - self._epoch
        alpha = self.ALPHA if self._estimate < self._w_max else 1.0
        self._estimate += alpha * mss * acked / cwnd
        ahead = elapsed + srtt - self._k
        target = self._w_max + self.C * ahead * ahead * ahead * mss
        grown = 0.0
        if target > cwnd:
            grown = (min(target, 1.5 * cwnd) - cwnd) * min(acked / cwnd, 1.0)
        self.cwnd = int(max(cwnd + grown, min(self._estimate, cwnd + acked)))

    def _begin_epoch(self, now: float) -> None:
        self._epoch = now
        self._estimate = float(self.cwnd)
        if self.cwnd < self._w_max:
            self._k = ((self._w_max - self.cwnd) / self._mss / self.C) ** (1 / 3)
        else:
            self._k = 0.0
            self._w_max = float(self.cwnd)


def make_congestion(config: TcpConfig, mss: int) -> Congestion:
    """The congestion control that `config` names."""
    return Cubic(config, mss) if config.congestion == "cubic" else NewReno(config, mss)
