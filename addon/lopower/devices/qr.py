"""QR codes of profiles: for a terminal, and as PNG or SVG.

A terminal code sets its own black and white, so that it reads the same on dark and on light
terminals. Every code carries the quiet zone of four modules that scanners expect.
"""

from __future__ import annotations

import io
import os
from pathlib import Path

import segno

from . import profiles
from .errors import UserError
from .profiles import reader

BORDER = 4
SCALE = 8
SUFFIXES = (".png", ".svg")
# The 256-colour cube's own black and white: themes redefine only the first 16 colours.
_COLOURS = "\x1b[38;5;16;48;5;231m"
_RESET = "\x1b[0m"
# Upper and lower module of one character cell, dark or light.
_CELLS = {(True, True): "█", (True, False): "▀", (False, True): "▄", (False, False): " "}
_INVERTED = {(not upper, not lower): cell for (upper, lower), cell in _CELLS.items()}


def check(kind: str, text: str | None = None) -> None:
    """UserError unless a phone could use a QR code of such a profile."""
    chosen = profiles.kind(kind)
    if not chosen.qr:
        raise UserError(
            f"A QR code is read by the WireGuard app, which cannot use the {kind} profile."
        )
    if text is not None:
        try:
            reader.read(text)
        except reader.ReadError as error:
            raise UserError(f"The WireGuard app could not read this profile: {error}.") from None


def terminal(text: str, *, colour: bool = True) -> str:
    """The code in half blocks; without colours it is meant for a dark terminal."""
    rows = [[bool(cell) for cell in row] for row in _make(text).matrix_iter(border=BORDER)]
    rows += [[False] * len(rows[0])] * (len(rows) % 2)
    cells = _CELLS if colour else _INVERTED
    lines = [
        "".join(cells[pair] for pair in zip(upper, lower, strict=True))
        for upper, lower in zip(rows[::2], rows[1::2], strict=True)
    ]
    return "\n".join(f"{_COLOURS}{line}{_RESET}" if colour else line for line in lines)


def width(text: str) -> int:
    """How many columns the terminal code takes."""
    return int(_make(text).symbol_size(border=BORDER)[0])


def png(text: str) -> bytes:
    """The code as a PNG image."""
    return _save(text, "png")


def svg(text: str) -> bytes:
    """The code as an SVG image."""
    return _save(text, "svg")


def write(text: str, path: Path) -> None:
    """The code as an image only its owner can read: it holds the private key."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(f"A QR code goes to the terminal or to a .png or .svg file, not {path}.")
    image = png(text) if path.suffix.lower() == ".png" else svg(text)
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(fd, "wb") as file:
            os.fchmod(fd, 0o600)
            file.write(image)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error.strerror}.") from None


def _save(text: str, kind: str) -> bytes:
    out = io.BytesIO()
    colours = {"dark": "#000", "light": "#fff"}
    _make(text).save(out, kind=kind, scale=SCALE, border=BORDER, **colours)
    return out.getvalue()


def _make(text: str) -> segno.QRCode:
    """The smallest code; a screen needs little error correction."""
    return segno.make_qr(compact(text), error="l", boost_error=True)


def compact(text: str) -> str:
    """The same file without comments and optional blanks: a smaller code, for 80 columns."""
    kept = [line for line in text.splitlines() if line and not line.startswith("#")]
    return "\n".join(kept).replace(" = ", "=").replace(", ", ",") + "\n"
