"""A QR code is read back as a phone would, and says what the file says."""

from __future__ import annotations

import re
import stat
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import zxingcpp
from numpy.typing import NDArray

from lopower.devices import profiles, qr
from lopower.devices.errors import UserError
from lopower.devices.hosts import HostPort
from lopower.devices.profiles import reader, wg_quick
from tests.devices.test_profiles import PROFILE

TEXT = profiles.render("wg-quick", PROFILE)
Image = NDArray[np.uint8]


def scan(image: Image) -> str:
    found = zxingcpp.read_barcodes(image, formats=zxingcpp.BarcodeFormat.QRCode)
    assert len(found) == 1
    return str(found[0].text)


def test_a_phone_reads_the_png() -> None:
    image = cv2.imdecode(np.frombuffer(qr.png(TEXT), np.uint8), cv2.IMREAD_GRAYSCALE)
    assert image is not None
    assert reader.read(scan(image)) == wg_quick.meant(PROFILE)
    assert image[: 4 * qr.SCALE].min() == 255, "the quiet zone is four modules"


def test_a_long_profile_still_fits_a_terminal() -> None:
    named = replace(PROFILE, endpoint=HostPort("a-rather-long-name.home.example.org", 51820))
    assert qr.width(profiles.render("wg-quick", named)) <= 80


@pytest.mark.parametrize("dark_terminal", [True, False])
def test_a_phone_reads_the_terminal(dark_terminal: bool) -> None:
    assert scan(draw(qr.terminal(TEXT), dark_terminal)) == qr.compact(TEXT)


def test_the_compact_file_says_the_same() -> None:
    assert reader.read(qr.compact(TEXT)) == reader.read(TEXT)
    assert len(qr.compact(TEXT)) < len(TEXT)


def test_a_phone_reads_a_terminal_without_colours() -> None:
    image = draw(qr.terminal(TEXT, colour=False), dark_terminal=True)
    assert reader.read(scan(image)) == wg_quick.meant(PROFILE)


def draw(text: str, dark_terminal: bool) -> Image:
    """The pixels a terminal with these colours would show."""
    paper = 0 if dark_terminal else 255
    rows = []
    for line in text.splitlines():
        coloured = line.startswith("\x1b[38;5;16;48;5;231m")
        ink, ground = (0, 255) if coloured else (255 - paper, paper)
        cells = re.sub(r"\x1b\[[0-9;]*m", "", line)
        rows.append([ink if cell in "█▀" else ground for cell in cells])
        rows.append([ink if cell in "█▄" else ground for cell in cells])
    image = np.array(rows, np.uint8)
    framed = np.pad(image, 2, constant_values=paper)
    return np.kron(framed, np.ones((6, 6), np.uint8)).astype(np.uint8)


def test_the_terminal_code_ends_its_colours() -> None:
    for line in qr.terminal(TEXT).splitlines():
        assert line.endswith("\x1b[0m")


def test_the_svg_is_well_formed() -> None:
    root = ET.fromstring(qr.svg(TEXT))
    assert root.tag.endswith("svg")


@pytest.mark.parametrize("name", ["code.png", "code.SVG"])
def test_an_image_is_its_owners_alone(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"x" * 100_000)
    path.chmod(0o644)
    qr.write(TEXT, path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_bytes() == (qr.png(TEXT) if name.endswith("png") else qr.svg(TEXT))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png or \.svg"):
        qr.write(TEXT, tmp_path / "code.gif")
    with pytest.raises(UserError, match=r"Cannot write .*: No such file"):
        qr.write(TEXT, tmp_path / "nowhere" / "code.png")
    (tmp_path / "link.png").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="Cannot write"):
        qr.write(TEXT, tmp_path / "link.png")


def test_only_what_the_app_can_use_becomes_a_code() -> None:
    qr.check("wg-quick", TEXT)
    with pytest.raises(UserError, match="cannot use the esphome profile"):
        qr.check("esphome")
    placeholder = profiles.render("wg-quick", replace(PROFILE, private_key=None))
    with pytest.raises(UserError, match="could not read this profile: invalid key"):
        qr.check("wg-quick", placeholder)
