"""One run of the gateway as a program: its lock, its signals, its view."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
from collections.abc import Callable

import uvloop

from lopower import view
from lopower.config import RunConfig, remembered
from lopower.devices.administration import Administration
from lopower.devices.errors import UserError
from lopower.devices.lock import DataLock
from lopower.devices.registry import Registry
from lopower.gateway import Gateway

log = logging.getLogger(__name__)

Greeting = Callable[[Administration], None]


def run(config: RunConfig, greet: Greeting | None = None) -> int:
    """Run until SIGINT or SIGTERM; `greet` is called once, when devices can connect."""
    logging.basicConfig(
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    if config.backend != "system":
        raise UserError("Only the backend 'system' is built in so far: run with --backend system.")
    _raise_file_limit()
    with DataLock(config.data, "gateway").acquire(), Registry(config.data, ipv4=config.ipv4) as reg:
        reg.save_settings(**remembered(reg.settings(), config))
        uvloop.run(_serve(config, reg, greet))
    return 0


async def _serve(config: RunConfig, registry: Registry, greet: Greeting | None) -> None:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    gateway = Gateway(config, registry, loop)
    await gateway.start()
    # What stands now stays for good; the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    shown: asyncio.Task[None] | None = None
    try:
        if greet is not None:
            greet(gateway.admin)
        if config.view:
            shown = loop.create_task(view.watch(gateway.admin))
        await stop.wait()
    finally:
        if shown is not None:
            shown.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await shown
        await gateway.stop()


def _raise_file_limit() -> None:
    """Every flow is a socket: take as many as the system lets us."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
