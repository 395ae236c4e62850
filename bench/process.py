"""What a process and its descendants use."""

from __future__ import annotations

import os
from pathlib import Path

TICK = os.sysconf("SC_CLK_TCK")


def family(root: int) -> list[int]:
    """A process and its living descendants."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*"):
        if fields := stat(int(path.name)):
            parents.setdefault(int(fields[1]), []).append(int(path.name))
    found, queue = [], [root]
    while queue:
        found.append(queue.pop())
        queue += parents.get(found[-1], [])
    return found


def stat(process: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on; empty when it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def cpu_seconds(root: int) -> float:
    """User and system time so far, with that of children that have ended."""
    fields = [stat(process) for process in family(root)]
    return sum(sum(map(int, entry[11:15])) for entry in fields if entry) / TICK


def resident(root: int) -> int:
    """Resident memory in bytes."""
    total = 0
    for process in family(root):
        try:
            status = Path(f"/proc/{process}/status").read_text()
        except OSError:
            continue
        if "VmRSS:" in status:
            total += int(status.split("VmRSS:")[1].split()[0]) * 1024
    return total
