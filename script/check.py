"""Every check and test, in the order of their cost. The tests' own closing line comes last."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.lab import peers  # noqa: E402

BIN = Path(sys.executable).parent
CHECKS = {
    "ruff check": ["ruff", "check", "--quiet"],
    "ruff format": ["ruff", "format", "--check", "--quiet"],
    "mypy": ["mypy", "--no-error-summary"],
    "lint-imports": ["lint-imports"],
}
CORES = ("lopower.wireguard", "lopower.netstack", "lopower.dns")
COVERAGE = [*(f"--cov={core}" for core in CORES), "--cov-report=term:skip-covered"]
COVERAGE_AT_LEAST = 95


def main(arguments: list[str]) -> int:
    """Runs the checks, then pytest with `arguments`; fails if anything of it failed."""
    failed = [name for name, command in CHECKS.items() if not check(name, command)]
    if "not e2e" not in arguments:
        peers.prepare()
    environment = {**os.environ, "LOPOWER_FAILED_CHECKS": ", ".join(failed)}
    command = [str(BIN / "pytest"), *pytest_options(arguments), *arguments]
    tests = subprocess.run(command, cwd=ROOT, env=environment, check=False)
    return tests.returncode or int(bool(failed))


def check(name: str, command: list[str]) -> bool:
    """Runs one check; its output is shown only when it failed."""
    started = time.monotonic()
    result = subprocess.run(
        [str(BIN / command[0]), *command[1:]],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    took = time.monotonic() - started
    print(f"{name:<13} {'ok' if result.returncode == 0 else 'FAILED':<6} {took:5.1f} s", flush=True)
    if result.returncode:
        print(result.stdout, flush=True)
    return result.returncode == 0


def pytest_options(arguments: list[str]) -> list[str]:
    """Two workers, and the cores' coverage where all of their tests are asked for."""
    parallel = ["-n", "2", "--dist", "loadgroup"]
    everything = arguments in ([], ["-m", "not e2e"])
    if not everything:
        return [] if {"-x", "-s", "--pdb"} & set(arguments) else parallel
    return [*parallel, *COVERAGE, f"--cov-fail-under={COVERAGE_AT_LEAST}"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
