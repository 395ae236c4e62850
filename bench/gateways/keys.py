"""Keys and files for gateways that bring no enrolment of their own."""

from __future__ import annotations

import base64
import os

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

PROFILE = """\
[Interface]
PrivateKey = {private}
Address = {addresses}
MTU = 1280
{extra}
[Peer]
PublicKey = {server}
{preshared}Endpoint = {endpoint}
AllowedIPs = {allowed}
PersistentKeepalive = 25
"""


def key_pair() -> tuple[str, str]:
    """A private and its public key, in base64."""
    private = X25519PrivateKey.generate()
    raw = (private.private_bytes_raw(), private.public_key().public_bytes_raw())
    return base64.b64encode(raw[0]).decode(), base64.b64encode(raw[1]).decode()


def preshared_key() -> str:
    return base64.b64encode(os.urandom(32)).decode()


def addresses(number: int) -> tuple[str, str]:
    """The inner addresses of device `number`, from 1 up."""
    host = number + 1
    return f"10.90.{host >> 8}.{host & 255}/32", f"fd7a:115c:a1e0:9909::{host:x}/128"
