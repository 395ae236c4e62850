"""One run of the gateway as a program: its lock, its signals, its view."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import signal

import uvloop

from lopower import view
from lopower.config import RunConfig
from lopower.devices.errors import UserError
from lopower.devices.lock import DataLock
from lopower.devices.registry import Registry
from lopower.gateway import Gateway


def run(config: RunConfig) -> int:
    """Run until SIGINT or SIGTERM."""
    if config.backend != "system":
        raise UserError("Only the backend 'system' is built in so far: run with --backend system.")
    _raise_file_limit()
    with DataLock(config.data, "gateway").acquire(), Registry(config.data, ipv4=config.ipv4) as reg:
        uvloop.run(_serve(config, reg))
    return 0


async def _serve(config: RunConfig, registry: Registry) -> None:
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
