"""Mistakes a user can mend: each is one sentence, an exit code and an HTTP status."""

from __future__ import annotations


class UserError(Exception):
    """One sentence that says what is wrong and, where it helps, what to do."""

    exit_code = 1
    status = 422


class Conflict(UserError):
    """The request is sound, but something already stands there."""

    status = 409


class NotFound(UserError):
    """There is no device of that name."""

    exit_code = 3
    status = 404


class InUse(UserError):
    """Another process holds the data directory, or the gateway does not answer."""

    exit_code = 4
    status = 503


class RegistryError(UserError):
    """The registry could not be read or written."""

    exit_code = 5
    status = 500


class RegistryNewer(RegistryError):
    """The registry was written by a newer LoPower; it has not been touched."""


class RegistryCorrupt(RegistryError):
    """The registry is damaged; it has not been touched."""


def from_problem(status: int, exit_code: int, sentence: str) -> UserError:
    """The error that a gateway reported, as this process would have raised it."""
    kinds: tuple[type[UserError], ...] = (Conflict, NotFound, InUse, RegistryError)
    kind = next((k for k in kinds if k.status == status and k.exit_code == exit_code), UserError)
    return kind(sentence)
