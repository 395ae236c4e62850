"""One timer with the resolution of the kernel: a timerfd (timerfd_create(2)).

Event loops count in milliseconds; a TCP sender spaces its bursts by tenths of them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import sys
from collections.abc import Callable
from time import monotonic

_CLOCK_MONOTONIC = 1
_NONBLOCK_CLOEXEC = 0o4000 | 0o2000000
_ABSOLUTE = 1
NEVER = float("inf")


class Timer:
    """Calls `fire` once at the time that was `set`, on the clock of `time.monotonic`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, fire: Callable[[], None]) -> None:
        self._loop = loop
        self._fire = fire
        self._handle: asyncio.TimerHandle | None = None
        self.due = NEVER
        self._fd = _create()
        if self._fd is not None:
            # struct itimerspec: no interval, then seconds and nanoseconds.
            self._spec = (ctypes.c_long * 4)()
            self._libc = ctypes.CDLL(None)
            loop.add_reader(self._fd, self._expired)

    def set(self, due: float) -> None:
        """Fire at `due` (seconds), and not at the time set before."""
        self.due = due
        if self._fd is None:
            if self._handle is not None:
                self._handle.cancel()
            self._handle = self._loop.call_later(max(0.001, due - monotonic()), self._expired)
            return
        nanoseconds = max(1, int(due * 1e9))
        self._spec[2], self._spec[3] = divmod(nanoseconds, 1_000_000_000)
        self._libc.timerfd_settime(self._fd, _ABSOLUTE, self._spec, None)

    def close(self) -> None:
        """Never fire again."""
        if self._handle is not None:
            self._handle.cancel()
        if self._fd is not None:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None

    def _expired(self) -> None:
        if self._fd is not None:
            try:
                os.read(self._fd, 8)
            except BlockingIOError:
                return  # set anew in the meantime
        self.due = NEVER
        self._fire()


def _create() -> int | None:
    if sys.platform != "linux":
        return None
    fd: int = ctypes.CDLL(None).timerfd_create(_CLOCK_MONOTONIC, _NONBLOCK_CLOEXEC)
    return fd if fd >= 0 else None
