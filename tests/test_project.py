"""The project's own promises: what the lock, the version and the traps of the formats say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import lopower

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def locked(name: str) -> set[str]:
    return set(re.findall(r"^([a-z0-9-]+)==", (ROOT / name).read_text(), re.MULTILINE))


def test_every_dependency_is_locked() -> None:
    wanted = {re.split(r"[\[<>=;]", entry)[0] for entry in PROJECT["dependencies"]}
    assert wanted <= locked("requirements.lock")


def test_the_lock_for_development_holds_what_the_gateway_runs_on() -> None:
    assert locked("requirements.lock") <= locked("requirements-dev.lock")


def test_one_version() -> None:
    assert getattr(lopower, "__version__", PROJECT["version"]) == PROJECT["version"]


def test_the_changelog_knows_this_version() -> None:
    assert re.search(
        rf"^## {re.escape(PROJECT['version'])}\b", (ROOT / "CHANGELOG.md").read_text(), re.M
    )
