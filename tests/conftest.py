"""What all tests share: failed checks and skipped tests are shouted, not whispered."""

from __future__ import annotations

import os
from typing import Any

import pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """End-to-end tests share the machine's network: one worker runs them, one after the other."""
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.e2e)
            item.add_marker(pytest.mark.xdist_group("e2e"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Repeats the checks that failed before the tests, and names every skipped test."""
    failed = os.environ.get("LOPOWER_FAILED_CHECKS")
    if failed:
        terminalreporter.section("FAILED CHECKS (see above)", red=True)
        terminalreporter.line(failed)
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped:
        terminalreporter.section(f"{len(skipped)} TESTS DID NOT RUN", yellow=True)
        for report in skipped:
            reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
            terminalreporter.line(f"{report.nodeid}: {reason}")
