"""Makes .venv with the locked dependencies. Runs on a bare Python: standard library only."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
LOCK = ROOT / "requirements-dev.lock"
STAMP = VENV / "lopower.stamp"


def main() -> int:
    """Brings .venv up to date; with --quiet, says nothing when there is nothing to do."""
    quiet = "--quiet" in sys.argv[1:]
    wanted = fingerprint()
    if up_to_date(wanted):
        if not quiet:
            print(f"{VENV} is up to date.")
        return 0
    print(f"Setting up {VENV} ...", file=sys.stderr)
    create()
    install()
    STAMP.write_text(wanted)
    return 0


def fingerprint() -> str:
    """What .venv depends on: change any of it and the next call installs again."""
    digest = hashlib.sha256(str(ROOT).encode())
    for path in (ROOT / "pyproject.toml", LOCK):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def up_to_date(wanted: str) -> bool:
    return PYTHON.exists() and STAMP.exists() and STAMP.read_text() == wanted


def create() -> None:
    """Creates .venv with uv, or with venv, which Debian keeps in a package of its own."""
    if PYTHON.exists() and run_quietly(PYTHON, "-c", "pass"):
        return
    if shutil.which("uv"):
        run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, VENV)
        return
    if not run_quietly(sys.executable, "-c", "import ensurepip"):
        package = f"python3.{sys.version_info.minor}-venv"
        if not apt_install(package):
            sys.exit(f"Python lacks venv: install it first (apt-get install {package}), or uv.")
    run(sys.executable, "-m", "venv", "--clear", VENV)


def install() -> None:
    """Installs exactly what is locked, then the project itself, editable."""
    if shutil.which("uv"):
        pip = ["uv", "pip", "install", "--quiet", "--python", str(PYTHON)]
    else:
        if not run_quietly(PYTHON, "-m", "pip", "--version"):
            run(PYTHON, "-m", "ensurepip")
        pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, "--require-hashes", "-r", LOCK)
    run(*pip, "--no-deps", "--no-build-isolation", "-e", ROOT)


def apt_install(*packages: str) -> bool:
    """Installs Debian packages where this is allowed (root); says whether it worked."""
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        return False
    print("Installing Debian packages:", *packages, file=sys.stderr)
    os.environ["DEBIAN_FRONTEND"] = "noninteractive"
    install = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *packages]
    return run_quietly(*install) or (
        run_quietly("apt-get", "update", "-qq") and run_quietly(*install)
    )


def run(*command: str | Path) -> None:
    result = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, check=False)
    if result.returncode:
        sys.exit(f"failed: {' '.join(map(str, command))}")


def run_quietly(*command: str | Path) -> bool:
    return (
        subprocess.run(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        ).returncode
        == 0
    )


if __name__ == "__main__":
    sys.exit(main())
