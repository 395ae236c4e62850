"""Tasmota: the file `/wireguard.conf`.

Tasmota reads one IPv4 address with its prefix length, insists on a preshared key, ignores DNS, and
without `Netmask` would send *all* of its traffic into the tunnel. Values carry no comments.
"""

from __future__ import annotations

from .input import ProfileInput


def write(profile: ProfileInput) -> str:
    """The file."""
    network = profile.plan.ipv4
    return "\n".join(
        [
            "[Interface]",
            f"PrivateKey = {profile.private_key_text}",
            f"Address = {profile.ipv4}/{network.prefixlen}",
            "",
            "[Peer]",
            f"PublicKey = {profile.server_public_key_text}",
            f"PresharedKey = {profile.preshared_key_text}",
            f"Endpoint = {profile.endpoint}",
            f"AllowedIPs = {network}",
            f"PersistentKeepalive = {profile.keepalive}",
            "",
            "[Tasmota]",
            f"Netmask = {network.netmask}",
            "AutoConnect = 1",
            "",
        ]
    )
