"""Fuzz target: a client's file. Arbitrary bytes are read, or refused with a ReadError."""

from __future__ import annotations

from lopower.devices.profiles.reader import ReadError, read

START = b"[Interface]\nPrivateKey = " + b"A" * 43 + b"=\nAddress = 10.90.0.2/32\n[Peer]\n"


def one_input(data: bytes) -> None:
    for file in (data, START + data):
        try:
            config = read(file.decode("utf-8", "replace"))
        except ReadError:
            continue
        assert len(config.private_key) == len(config.public_key) == 32
