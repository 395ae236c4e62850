"""Phones, Linux, OpenWrt, RouterOS: a standard wg-quick file."""

from __future__ import annotations

from . import reader
from .input import ProfileInput


def write(profile: ProfileInput) -> str:
    """The file; one with a private key is read back as a phone would before it is given out."""
    text = "\n".join([*_interface(profile), "", *_peer(profile), ""])
    if profile.private_key is not None:
        verify(text, profile)
    return text


def _interface(profile: ProfileInput) -> list[str]:
    addresses = [f"{profile.ipv6}/128"] + ([f"{profile.ipv4}/32"] if profile.ipv4 else [])
    return [
        "[Interface]",
        f"# {profile.name}.lopower.internal",
        f"PrivateKey = {profile.private_key_text}",
        f"Address = {', '.join(addresses)}",
        f"DNS = {', '.join(profile.dns)}",
        f"MTU = {profile.mtu}",
    ]


def _peer(profile: ProfileInput) -> list[str]:
    allowed = [*profile.allowed_ipv6, *profile.allowed_ipv4]
    lines = ["[Peer]", f"PublicKey = {profile.server_public_key_text}"]
    if profile.preshared_key_text is not None:
        lines.append(f"PresharedKey = {profile.preshared_key_text}")
    return [
        *lines,
        f"AllowedIPs = {', '.join(map(str, allowed))}",
        f"Endpoint = {profile.endpoint}",
        f"PersistentKeepalive = {profile.keepalive}",
    ]


def verify(text: str, profile: ProfileInput) -> None:
    """ReadError unless the client will read exactly what was meant."""
    found = reader.read(text)
    if found != meant(profile):
        raise reader.ReadError("the file does not say what was meant")


def meant(profile: ProfileInput) -> reader.ClientConfig:
    """What the client must understand."""
    return reader.ClientConfig(
        private_key=profile.private_key or b"",
        addresses=frozenset(f"{a}/{128 if ':' in a else 32}" for a in profile.addresses),
        dns=tuple(profile.dns),
        mtu=profile.mtu,
        public_key=profile.server_public_key,
        preshared_key=profile.preshared_key,
        allowed_ips=frozenset(map(str, [*profile.allowed_ipv6, *profile.allowed_ipv4])),
        endpoint=(profile.endpoint.host, profile.endpoint.port),
        keepalive=profile.keepalive,
    )
