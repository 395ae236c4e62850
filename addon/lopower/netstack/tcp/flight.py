"""What is in flight: the SACK scoreboard (RFC 6675) and the transmit times of RACK (RFC 8985).

Theory of operation. Everything between SND.UNA and SND.NXT is covered by *runs*: adjacent ranges
in sequence order, each sent at one moment and in one state (IN_FLIGHT, SACKED or LOST). A burst is
one run; SACK blocks split it. Original transmissions are ordered in time as they are in sequence,
so RACK's question, "what was sent before the segment that has just been delivered?", is a walk
from `_checked` on; retransmissions are kept in a second, time-ordered list. Every run is looked at
once by each walk.
"""

from __future__ import annotations

from bisect import bisect_right
from math import inf

IN_FLIGHT = 0
SACKED = 1
LOST = 2


class Run:
    """Bytes `start <= sequence < end`, last sent at one time."""

    __slots__ = ("end", "retransmitted", "sent_at", "start", "state")

    def __init__(
        self, start: int, end: int, sent_at: float, state: int = IN_FLIGHT, again: bool = False
    ) -> None:
        self.start = start
        self.end = end
        self.sent_at = sent_at
        self.state = state
        self.retransmitted = again


def _start_of(run: Run) -> int:
    return run.start


class Flight:
    """The runs in flight, and what the last acknowledgement told about them."""

    __slots__ = (
        "_again",
        "_checked",
        "_max_runs",
        "ambiguous",
        "delivered",
        "highest",
        "in_flight",
        "lost",
        "min_rtt",
        "original_delivered",
        "rack_end",
        "rack_rtt",
        "rack_time",
        "reordering",
        "rtt",
        "runs",
        "sacked",
    )

    def __init__(self, start: int, max_runs: int, min_rtt: float, reordering: bool) -> None:
        self.runs: list[Run] = []
        self._again: list[tuple[float, int, int]] = []  # retransmissions: time, start, end
        self._checked = start  # original transmissions before it are decided
        self._max_runs = max_runs
        self.in_flight = 0
        self.sacked = 0
        self.lost = 0
        self.delivered = 0  # bytes acknowledged or SACKed, ever
        self.highest = start  # the end of what is known to have arrived (RACK.fack)
        self.rack_time = -inf
        self.rack_end = start
        self.rack_rtt = 0.0
        self.min_rtt = min_rtt
        self.reordering = reordering
        # Of the last acknowledgement:
        self.rtt = -1.0  # a measurement, negative for none
        self.ambiguous = False  # something sent again arrived: no measurement (Karn's algorithm)
        self.original_delivered = False  # something marked lost arrived without being sent again

    @property
    def full(self) -> bool:
        """Whether no more runs should be made."""
        return len(self.runs) >= self._max_runs

    def sent(self, start: int, end: int, now: float) -> None:
        """New data has been sent."""
        runs = self.runs
        self.in_flight += end - start
        if runs:
            last = runs[-1]
            if last.sent_at == now and last.state == IN_FLIGHT and not last.retransmitted:
                last.end = end
                return
        runs.append(Run(start, end, now))

    def acknowledge(self, una: int, now: float) -> None:
        """Everything before `una` has arrived."""
        runs = self.runs
        done = 0
        for run in runs:
            if run.start >= una:
                break
            if run.end > una:
                self._deliver(run, una - run.start, una, now)
                run.start = una
                break
            self._deliver(run, run.end - run.start, run.end, now)
            done += 1
        del runs[:done]
        if una > self.highest:
            self.highest = una
        if una > self._checked:
            self._checked = una
        if not runs:
            self._again.clear()

    def _deliver(self, run: Run, count: int, end: int, now: float) -> None:
        """`count` bytes of `run`, up to `end`, have arrived, if they had not before."""
        state = run.state
        if state == SACKED:
            self.sacked -= count
            return
        self.delivered += count
        if state == IN_FLIGHT:
            self.in_flight -= count
        else:
            self.lost -= count
        sent_at = run.sent_at
        rtt = now - sent_at
        if run.retransmitted:
            self.ambiguous = True
            if rtt < self.min_rtt:
                return  # more likely the original's (RFC 8985, 6.2 step 2)
        else:
            self.rtt = rtt
            if state == LOST:
                self.original_delivered = True
            if end < self.highest:
                self.reordering = True
        if sent_at > self.rack_time or (sent_at == self.rack_time and end > self.rack_end):
            self.rack_time = sent_at
            self.rack_end = end
            self.rack_rtt = rtt

    def sack(self, start: int, end: int, now: float) -> None:
        """A block that has arrived out of order."""
        runs = self.runs
        at = self._index(start)
        while at < len(runs) and runs[at].start < end:
            run = runs[at]
            if run.state != SACKED:
                if (run.start < start or run.end > end) and self.full:
                    return
                if run.start < start:
                    at += 1
                    run = self._split(at - 1, start)
                if run.end > end:
                    self._split(at, end)
                count = run.end - run.start
                self._deliver(run, count, run.end, now)
                run.state = SACKED
                self.sacked += count
                at = self._merge(at)
            at += 1
        if end > self.highest:
            self.highest = end

    def _index(self, sequence: int) -> int:
        """Where the run with `sequence` stands, or the next one."""
        runs = self.runs
        at = bisect_right(runs, sequence, key=_start_of) - 1
        if at < 0:
            return 0
        return at + 1 if runs[at].end <= sequence else at

    def _split(self, at: int, sequence: int) -> Run:
        """Cut a run in two; returns the second."""
        run = self.runs[at]
        second = Run(sequence, run.end, run.sent_at, run.state, run.retransmitted)
        run.end = sequence
        self.runs.insert(at + 1, second)
        return second

    def _merge(self, at: int) -> int:
        """Join a SACKED run with SACKED neighbours; returns where it stands then."""
        runs = self.runs
        run = runs[at]
        if at + 1 < len(runs) and runs[at + 1].state == SACKED:
            run.end = runs[at + 1].end
            del runs[at + 1]
        if at and runs[at - 1].state == SACKED:
            runs[at - 1].end = run.end
            del runs[at]
            return at - 1
        return at

    def detect_losses(self, window: float, now: float) -> float:
        """Mark lost what was sent before the latest delivery and is overdue by `window`.

        Returns when to look again, `inf` for not before the next acknowledgement.
        """
        patience = self.rack_rtt + window
        again = self._check_retransmissions(patience, now)
        runs = self.runs
        at = self._index(self._checked)
        while at < len(runs):
            run = runs[at]
            if run.state == IN_FLIGHT and not run.retransmitted:
                if not self._sent_before_delivery(run.sent_at, run.end):
                    break
                if window and run.sent_at + patience > now:
                    again = min(again, run.sent_at + patience)
                    break
                self.mark_lost(run)
            elif run.start >= self.highest:
                break
            self._checked = run.end
            at += 1
        return again

    def _sent_before_delivery(self, sent_at: float, end: int) -> bool:
        return sent_at < self.rack_time or (sent_at == self.rack_time and end <= self.rack_end)

    def _check_retransmissions(self, patience: float, now: float) -> float:
        done = 0
        again = inf
        for sent_at, start, end in self._again:
            if not self._sent_before_delivery(sent_at, end):
                break
            if sent_at + patience > now and patience > self.rack_rtt:
                again = sent_at + patience
                break
            done += 1
            self._mark_range(start, end, sent_at)
        del self._again[:done]
        return again

    def _mark_range(self, start: int, end: int, sent_at: float) -> None:
        """What of a retransmission is still in flight is lost again."""
        runs = self.runs
        at = self._index(start)
        while at < len(runs) and runs[at].start < end:
            run = runs[at]
            if run.state == IN_FLIGHT and run.sent_at == sent_at:
                self.mark_lost(run)
            at += 1

    def mark_lost(self, run: Run) -> None:
        """A run in flight is given up."""
        count = run.end - run.start
        run.state = LOST
        self.in_flight -= count
        self.lost += count

    def mark_first_lost(self, mss: int) -> None:
        """Without SACK: the first segment is what is missing (RFC 6582)."""
        if self.runs and self.runs[0].state == IN_FLIGHT:
            run = self.runs[0]
            if run.end - run.start > mss:
                self._split(0, run.start + mss)
            self.mark_lost(run)

    def mark_all_lost(self) -> None:
        """The retransmission timer expired: all that is not SACKed goes again (RFC 6675, 5.1)."""
        runs = self.runs
        if runs and runs[0].state == SACKED:
            self._forget_sacks()
        for run in runs:
            if run.state == IN_FLIGHT:
                self.mark_lost(run)
        self._again.clear()

    def _forget_sacks(self) -> None:
        """The receiver has reneged (RFC 2018, 8)."""
        for run in self.runs:
            if run.state == SACKED:
                run.state = IN_FLIGHT
                self.in_flight += run.end - run.start
        self.sacked = 0
        self.highest = self.runs[0].start

    def unmark_lost(self) -> None:
        """The timeout was spurious: what was given up is in flight after all."""
        for run in self.runs:
            if run.state == LOST:
                run.state = IN_FLIGHT
                count = run.end - run.start
                self.lost -= count
                self.in_flight += count
        if self.runs:
            self._checked = self.runs[0].start
        self.rack_time = -inf  # what seemed to be the retransmission was the original

    def take_lost(self, limit: int, mss: int, now: float) -> list[tuple[int, int]]:
        """Ranges to send again, in order, together at most `limit` bytes; they are in flight."""
        taken: list[tuple[int, int]] = []
        runs = self.runs
        at = 0
        while self.lost and limit > 0 and at < len(runs):
            run = runs[at]
            if run.state == LOST:
                whole = limit - limit % mss
                if run.end - run.start > limit:
                    if not whole:
                        break
                    self._split(at, run.start + whole)
                self._send_again(run, now)
                limit -= run.end - run.start
                taken.append((run.start, run.end))
            at += 1
        return taken

    def _send_again(self, run: Run, now: float) -> None:
        count = run.end - run.start
        self.lost -= count
        self.in_flight += count
        run.state = IN_FLIGHT
        run.sent_at = now
        run.retransmitted = True
        self._again.append((now, run.start, run.end))

    def take_last(self, mss: int, now: float) -> tuple[int, int]:
        """The last segment, sent again as a loss probe (RFC 8985, 7.3)."""
        run = self.runs[-1]
        if run.end - run.start > mss:
            run = self._split(len(self.runs) - 1, run.end - mss)
        run.sent_at = now
        run.retransmitted = True
        self._again.append((now, run.start, run.end))
        return run.start, run.end


NOTHING = Flight(0, 0, inf, False)
"""For all connections with nothing in flight: most of them, most of the time."""
