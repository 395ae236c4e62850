"""Arduino and ESP-IDF sketches: a header of constants, fit for C and C++.

The libraries check incoming packets against AllowedIPs by their *destination*: the device's own
address must lie inside, so the allowed range is the gateway's whole one.
"""

from __future__ import annotations

from .input import ProfileInput

_NO_PSK = "// This device has no preshared key."


def write(profile: ProfileInput) -> str:
    """The header `lopower.h`."""
    network, plan = profile.plan.ipv4, profile.plan
    psk = profile.preshared_key_text
    return "\n".join(
        [
            "#pragma once",
            f"// {profile.name}.lopower.internal; holds secrets, keep it out of version control.",
            "// Set the clock by SNTP before the tunnel is started: handshakes carry the time.",
            _text("PRIVATE_KEY", profile.private_key_text),
            _text("ADDRESS", profile.ipv4),
            _text("NETMASK", network.netmask),
            _text("GATEWAY", plan.gateway4),
            _text("SERVER_PUBLIC_KEY", profile.server_public_key_text),
            _NO_PSK if psk is None else _text("PRESHARED_KEY", psk),
            _text("ALLOWED_IP", network.network_address),
            _text("ALLOWED_IP_MASK", network.netmask),
            _text("ENDPOINT", profile.endpoint.host),
            _number("ENDPOINT_PORT", profile.endpoint.port),
            _number("KEEPALIVE", profile.keepalive),
            _number("MTU", profile.mtu),
            "",
        ]
    )


def _text(name: str, value: object) -> str:
    return f'#define LOPOWER_{name} "{value}"'


def _number(name: str, value: int) -> str:
    return f"#define LOPOWER_{name} {value}"
