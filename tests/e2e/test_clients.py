"""Every client gets along with the printed file: three implementations, wg-quick, and the QR."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import pytest
import zxingcpp

from tests.e2e.conftest import DIGEST, MakeDevice
from tests.e2e.test_flows import EXPECTED, download, upload
from tests.lab import peers
from tests.lab.client import Implementation, Profile
from tests.lab.gateway import Gateway
from tests.lab.namespace import unique
from tests.lab.network import TARGET, TARGET6, Network

COUNT = 12_500_000


@pytest.mark.parametrize("implementation", ["debian", "current", "boringtun"])
def test_every_client_connects(
    gateway: Gateway, make_device: MakeDevice, implementation: Implementation
) -> None:
    device = make_device(gateway, f"with-{implementation}", implementation)
    for address in (TARGET, TARGET6):
        answer = device.namespace.run("ping", "-c", "2", "-i", "0.2", "-W", "3", address).stdout
        assert " 0% packet loss" in answer
        assert upload(device, address, COUNT) == EXPECTED[COUNT]
        assert download(device, address, COUNT) == EXPECTED[COUNT]


def test_wg_quick_takes_the_file_as_it_is(
    gateway: Gateway, network: Network, tmp_path: Path
) -> None:
    """The steps of the README: save the file, `wg-quick up`."""
    namespace, device = network.client(), unique("lpq")
    profile = tmp_path / f"{device}.conf"
    profile.write_text(gateway.enroll("by-wg-quick")["profile"])
    profile.chmod(0o600)
    resolvconf = tmp_path / "resolvconf"
    resolvconf.write_text("#!/bin/sh\ncat >/dev/null\n")
    resolvconf.chmod(0o755)
    environment = {
        **os.environ,
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "WG_QUICK_USERSPACE_IMPLEMENTATION": peers.debian_wireguard_go() or "",
    }
    namespace.run("wg-quick", "up", profile, env=environment)
    try:
        namespace.connect(TARGET, DIGEST).close()
        namespace.connect(TARGET6, DIGEST).close()
    finally:
        namespace.run("wg-quick", "down", profile, env=environment)


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_qr_holds_what_the_file_holds(gateway: Gateway, tmp_path: Path, suffix: str) -> None:
    picture = tmp_path / f"device.{suffix}"
    enrolled = gateway.enroll(f"by-{suffix}", "--qr", str(picture))
    if suffix == "svg":
        assert "<svg" in picture.read_text()
        return
    image = cv2.imread(str(picture))
    assert image is not None
    (code,) = zxingcpp.read_barcodes(image)
    assert Profile(code.text).values == Profile(enrolled["profile"]).values
