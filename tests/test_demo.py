"""The demonstration, as a person runs it."""

from __future__ import annotations

import json
import subprocess
import time

from tests.lab.gateway import LOPOWER


def test_the_demo_needs_no_privilege_and_succeeds() -> None:
    """It starts a gateway and a device on loopback, and prints what worked."""
    started = time.monotonic()
    result = subprocess.run(
        [LOPOWER, "demo", "--json"], capture_output=True, text=True, timeout=30, check=False
    )
    took = time.monotonic() - started
    assert result.returncode == 0, result.stdout + result.stderr
    outcome = json.loads(result.stdout)
    assert outcome["ok"] is True
    assert outcome["checks"]
    assert all(check["ok"] and check["ms"] >= 0 for check in outcome["checks"])
    assert took < 10
