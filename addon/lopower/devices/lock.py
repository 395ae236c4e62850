"""One owner of a data directory at a time, by a lock the kernel drops when the owner dies."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from .errors import InUse

FILE = "lock"
# A command holds the lock for milliseconds; a gateway that is starting waits for it this long.
PATIENCE = 5.0
POLL = 0.02


def make_data_directory(data: Path) -> None:
    """Create the directory for its owner only; an existing one keeps its mode."""
    try:
        data.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise InUse(f"Cannot create the data directory {data}: {error.strerror}.") from None


class DataLock:
    """Holds DATA/lock from `acquire` to `release`; also a context manager."""

    __slots__ = ("_fd", "_path", "_purpose")

    def __init__(self, data: Path, purpose: str = "command") -> None:
        self._path = data / FILE
        self._purpose = purpose
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it."""
        make_data_directory(self._path.parent)
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise InUse(f"Cannot open {self._path}: {error.strerror}.") from None
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()} {self._purpose}\n".encode(), 0)
        self._fd = fd
        return True

    def acquire(self, patience: float = PATIENCE) -> DataLock:
        """Take the lock, waiting for a command to finish; InUse when it does not come free."""
        end = time.monotonic() + patience
        while not self.try_acquire():
            if time.monotonic() >= end or self.holder()[1] == "gateway" == self._purpose:
                raise InUse(self.sentence())
            time.sleep(POLL)
        return self

    def holder(self) -> tuple[int, str]:
        """Process id and purpose of whoever wrote the lock file last."""
        try:
            pid, purpose = self._path.read_text().split()
            return int(pid), purpose
        except (OSError, ValueError):
            return 0, "process"

    def sentence(self) -> str:
        """Who is in the way."""
        pid, purpose = self.holder()
        directory = self._path.parent
        if purpose == "gateway":
            return f"A gateway (process {pid}) is already running on {directory}."
        return f"Another {purpose} (process {pid}) is using {directory}; try again."

    def release(self) -> None:
        """Give the lock back; the file stays, so that nobody locks a deleted one."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def __enter__(self) -> DataLock:
        return self if self._fd is not None else self.acquire()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()
