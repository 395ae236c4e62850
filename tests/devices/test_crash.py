"""A process that is killed in the middle of writing loses nothing it was told is saved."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from lopower.devices.registry import Registry

WRITER = """
import sys
from pathlib import Path
from lopower.devices import keys
from lopower.devices.device import Runtime
from lopower.devices.registry import Registry

registry = Registry(Path(sys.argv[1]))
for number in range(100000):
    name = f"{sys.argv[2]}-{number}"
    device = registry.add_device(name, "wg-quick", keys.preshared(), None, private_key=None,
                                 expires=None, addressing="native", fragments_ok=True)
    print("device", name, flush=True)
    registry.save_runtime([Runtime(device.id, None, None, None, number, 1)])
    print("bytes", name, number, flush=True)
    if number % 3 == 2:
        registry.revoke(device.id)
        print("revoked", name, flush=True)
"""


def test_nothing_that_was_committed_is_lost(tmp_path: Path) -> None:
    chance = random.Random(7)
    kept: dict[str, int] = {}
    gone: set[str] = set()
    for life in range(6):
        for line in killed_writer(tmp_path, f"life{life}", chance.uniform(0.02, 0.25)):
            match line.split():
                case ["device", name]:
                    kept[name] = 0
                case ["bytes", name, count]:
                    kept[name] = int(count)
                case ["revoked", name]:
                    gone.add(name)
        check(tmp_path, kept, gone)
    assert len(kept) > 20


def killed_writer(data: Path, prefix: str, lifetime: float) -> list[str]:
    """What a writer said it had saved before it was killed."""
    command = [sys.executable, "-c", WRITER, str(data), prefix]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(lifetime)
        writer.send_signal(signal.SIGKILL)
        return [first, *(line for line in writer.stdout if line.endswith("\n"))]


def check(data: Path, kept: dict[str, int], gone: set[str]) -> None:
    with Registry(data) as registry:
        found = {device.name: device for device in registry.devices()}
    assert not gone & set(found)
    for name, count in kept.items():
        if name in gone:
            continue
        # The last revocation may have happened without having been told.
        if name not in found:
            assert name == list(kept)[-1]
            gone.add(name)
        else:
            assert found[name].rx_bytes >= count
    addresses = [device.ipv4 for device in found.values()]
    assert len(addresses) == len(set(addresses))
