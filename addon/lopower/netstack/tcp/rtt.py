"""Round-trip time and retransmission timeout (RFC 6298)."""

from __future__ import annotations

from math import inf

from lopower.netstack.tcp.config import TcpConfig

MIN_RTT_WINDOW = 30.0  # seconds after which a minimum is no longer believed (routes change)
GRANULARITY = 0.001


class RttEstimator:
    """SRTT, RTTVAR and RTO; the minimum is RACK's (RFC 8985, 6.1)."""

    __slots__ = ("_min_at", "max_rto", "min_rto", "min_rtt", "rto", "rttvar", "srtt")

    def __init__(self, config: TcpConfig) -> None:
        self.srtt = 0.0
        self.rttvar = 0.0
        self.rto = config.initial_rto
        self.min_rto = config.min_rto
        self.max_rto = config.max_rto
        self.min_rtt = inf
        self._min_at = 0.0

    def sample(self, rtt: float, now: float) -> None:
        """One measurement, never of a retransmitted segment (Karn)."""
        # After an outage an acknowledgement of the original may be a minute late; believing that at
        # once would keep the timers away for another.
        rtt = min(rtt, 4 * self.rto)
        if rtt <= self.min_rtt or now - self._min_at > MIN_RTT_WINDOW:
            self.min_rtt = rtt
            self._min_at = now
        if self.srtt:
            deviation = abs(self.srtt - rtt)
            self.rttvar += (deviation - self.rttvar) * 0.25
            self.srtt += (rtt - self.srtt) * 0.125
        else:
            self.srtt = rtt or GRANULARITY
            self.rttvar = rtt / 2
        # Linux' reading of the minimum: it bounds the variance term, not the sum.
        variance = self.rttvar * 4
        rto = self.srtt + (variance if variance > self.min_rto else self.min_rto)
        self.rto = rto if rto < self.max_rto else self.max_rto

    def backed_off(self, times: int) -> float:
        """The RTO after `times` expiries in a row."""
        return min(self.rto * (1 << min(times, 16)), self.max_rto)
