"""One edge-triggered epoll for all flow sockets: a wake-up hands over each that changed.

A socket is registered once, for both directions, and costs one dictionary entry. Its owner
remembers what it may still do (epoll(7), "edge-triggered").
"""

from __future__ import annotations

import asyncio
import logging
import select
from collections.abc import Callable
from typing import Final, Protocol

log = logging.getLogger(__name__)

READABLE: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
WRITABLE: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
HANGUP: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
FAILED: Final = select.EPOLLERR
_BOTH = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
_IN = select.EPOLLIN
MAX_EVENTS = 256  # per wake-up, so that the tunnel is served in between


class Watcher(Protocol):
    """Whoever owns a socket."""

    def on_socket(self, mask: int) -> None:
        """The socket changed: `mask` holds READABLE, WRITABLE, HANGUP bits."""


class Poller:
    """Calls `on_socket` of each watcher whose socket changed, then `settle` once."""

    def __init__(self, loop: asyncio.AbstractEventLoop, settle: Callable[[], None]) -> None:
        self._loop = loop
        self._settle = settle
        self._epoll = select.epoll()
        self._watchers: dict[int, Watcher] = {}
        loop.add_reader(self._epoll.fileno(), self._wake)

    def watch(self, fd: int, watcher: Watcher) -> None:
        """Hand every change of `fd` to `watcher` until `forget`."""
        self._watchers[fd] = watcher
        self._epoll.register(fd, _BOTH)

    def watch_readable(self, fd: int, watcher: Watcher) -> None:
        """For datagrams: `watcher` is called again as long as there are any, never for room."""
        self._watchers[fd] = watcher
        self._epoll.register(fd, _IN)

    def hand_over(self, fd: int, watcher: Watcher) -> None:
        """Let another watcher have a watched socket; it is told anew what the socket can do."""
        self._watchers[fd] = watcher
        self._epoll.modify(fd, _BOTH)

    def forget(self, fd: int) -> None:
        """Call before the socket is closed."""
        if self._watchers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        self._epoll.close()

    def __len__(self) -> int:
        return len(self._watchers)

    def _wake(self) -> None:
        watchers = self._watchers
        for fd, mask in self._epoll.poll(0, MAX_EVENTS):
            watcher = watchers.get(fd)
            if watcher is not None:
                try:
                    watcher.on_socket(mask)
                except Exception:
                    log.exception("a flow failed")
        self._settle()
