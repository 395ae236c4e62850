"""One run of the gateway as a program: its lock, its signals, its view."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import resource
import signal
import sys

import uvloop

from lopower.config import RunConfig
from lopower.devices.errors import UserError
from lopower.devices.lock import DataLock
from lopower.devices.registry import Registry
from lopower.gateway import Gateway

LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def main() -> int:
    """`python -m lopower.service CONFIG`: what `lopower run` becomes when there is no view."""
    config = RunConfig.from_json(sys.argv[1])
    logging.basicConfig(level=config.log_level.upper(), format=LOG_FORMAT)
    try:
        return run(config)
    except UserError as error:
        print(f"lopower: {error}", file=sys.stderr)
        return error.exit_code


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
    gc.set_threshold(20_000, 20, 20)
    shown: asyncio.Task[None] | None = None
    try:
        if config.view:
            from lopower import view  # only a terminal needs it

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


if __name__ == "__main__":
    sys.exit(main())
