"""How a command reaches the devices: through the running gateway, or by itself under the lock."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from lopower.devices.administration import Administration
from lopower.devices.enrolment import Network
from lopower.devices.errors import InUse, UserError
from lopower.devices.lock import PATIENCE, POLL, DataLock
from lopower.devices.registry import Registry
from lopower.devices.settings import Settings
from lopower.proxy.policy import Context, routes
from lopower.proxy.rule import parse_rules

from .client import ControlClient, NotStarted


class Access:
    """Runs operations in the running gateway, or under the lock when there is none.

    A gateway that is just starting or stopping is waited for. Use it as a context manager: the
    lock, once taken, is held until the end. `ipv4` overrules the setting where no gateway runs.
    """

    def __init__(self, data: Path, *, ipv4: bool | None = None, patience: float = PATIENCE) -> None:
        self._data = data
        self._ipv4 = ipv4
        self._patience = patience
        self._lock = DataLock(data)
        self._local: Administration | None = None

    @property
    def local(self) -> bool:
        """Whether the operations run here."""
        return self._local is not None

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """The operation's result; UserError when it was refused."""
        end = time.monotonic() + self._patience
        while self._local is None:
            client = ControlClient.connect(self._data)
            if client is not None:
                with suppress(NotStarted), closing(client):
                    return client.call(operation, arguments)
            elif self._lock.try_acquire():
                self._open()
            if self._local is None and time.monotonic() >= end:
                raise InUse(self._lock.sentence())
            time.sleep(0 if self._local else POLL)
        return self._local.call(operation, arguments)

    def _open(self) -> None:
        registry = Registry(self._data, ipv4=self._ipv4)
        self._local = Administration(registry, routes=rule_routes(registry.settings()))

    def __enter__(self) -> Access:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._local is not None:
            self._local.registry.close()
            self._local = None
        self._lock.release()


def rule_routes(settings: Settings) -> Callable[[tuple[str, ...]], list[Network]]:
    """The prefixes behind a device's rules, for a gateway with these ranges; it checks them too."""
    plan = settings.plan
    context = Context(
        gateway=(plan.gateway4.packed, plan.gateway6.packed), devices=(plan.ipv4, plan.ipv6)
    )

    def prefixes(rules: tuple[str, ...]) -> list[Network]:
        try:
            return list(routes(parse_rules(rules), context))
        except ValueError as error:
            raise UserError(str(error)) from None

    return prefixes
