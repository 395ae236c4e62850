"""How a command reaches the devices: through the running gateway, or by itself under the lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from lopower.devices.administration import Administration
from lopower.devices.enrolment import Network
from lopower.devices.errors import InUse
from lopower.devices.lock import PATIENCE, POLL, DataLock
from lopower.devices.registry import Registry
from lopower.devices.settings import Settings
from lopower.proxy.policy import Context, routes
from lopower.proxy.rule import parse_rules

from .client import ControlClient


class Caller(Protocol):
    """Runs operations by name, wherever they run."""

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """The operation's result; UserError when it was refused."""
        ...


@contextmanager
def reach(
    data: Path,
    *,
    ipv4: bool | None = None,
    patience: float = PATIENCE,
) -> Iterator[Caller]:
    """The gateway's Administration if one is running, else one of our own.

    A running gateway knows whether IPv4 is on; `ipv4` is for the other case. A gateway that is just
    starting or stopping is waited for.
    """
    lock = DataLock(data)
    end = time.monotonic() + patience
    while True:
        client = ControlClient.connect(data)
        if client is not None:
            try:
                yield client
            finally:
                client.close()
            return
        if lock.try_acquire():
            break
        if time.monotonic() >= end:
            raise InUse(lock.sentence())
        time.sleep(POLL)
    with lock, Registry(data, ipv4=ipv4) as registry:
        yield Administration(registry, routes=rule_routes(registry.settings()))


def rule_routes(settings: Settings) -> Callable[[tuple[str, ...]], list[Network]]:
    """The prefixes behind a device's rules, for a gateway with these ranges."""
    plan = settings.plan
    context = Context(
        gateway=(plan.gateway4.packed, plan.gateway6.packed), devices=(plan.ipv4, plan.ipv6)
    )
    return lambda rules: list(routes(parse_rules(rules), context))
