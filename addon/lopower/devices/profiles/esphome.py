"""ESPHome: a YAML snippet, with its secrets in place or apart.

Only `address` and `netmask` decide what ESPHome sends into the tunnel, and a mixture of IPv4 and
IPv6 in `peer_allowed_ips` breaks its build. Without `reboot_timeout: 0s` the device restarts every
15 minutes while the gateway is down.
"""

from __future__ import annotations

from .input import ProfileInput


def write(profile: ProfileInput) -> str:
    """The snippet with the keys in it."""
    psk = profile.preshared_key_text
    return _snippet(
        profile,
        f'"{profile.private_key_text}"',
        None if psk is None else f'"{psk}"',
        _name_warning(profile),
    )


def write_apart(profile: ProfileInput) -> tuple[str, str]:
    """The snippet with `!secret` references, and the lines for secrets.yaml."""
    stem = f"lopower_{profile.name.replace('-', '_')}"
    private, shared = f"{stem}_private_key", f"{stem}_preshared_key"
    psk = profile.preshared_key_text
    secrets = [f'{private}: "{profile.private_key_text}"']
    if psk is not None:
        secrets.append(f'{shared}: "{psk}"')
    snippet = _snippet(
        profile,
        f"!secret {private}",
        None if psk is None else f"!secret {shared}",
        _name_warning(profile),
    )
    return snippet, "\n".join([*secrets, ""])


def _name_warning(profile: ProfileInput) -> list[str]:
    if profile.endpoint.version is not None:
        return []
    return ["  # A name is looked up only when the tunnel is made; an address is safer."]


def _host(profile: ProfileInput) -> str:
    """The endpoint; a name in quotes, for YAML takes some words for something else."""
    host = profile.endpoint.host
    return host if profile.endpoint.version is not None else f'"{host}"'


def _snippet(profile: ProfileInput, private: str, psk: str | None, warning: list[str]) -> str:
    network = profile.plan.ipv4
    return "\n".join(
        [
            f"# {profile.name}.lopower.internal",
            "time:",
            "  - platform: sntp",
            "wireguard:",
            f"  address: {profile.ipv4}",
            f"  netmask: {network.netmask}",
            f"  private_key: {private}",
            *warning,
            f"  peer_endpoint: {_host(profile)}",
            f"  peer_port: {profile.endpoint.port}",
            f'  peer_public_key: "{profile.server_public_key_text}"',
            *([] if psk is None else [f"  peer_preshared_key: {psk}"]),
            "  peer_allowed_ips:",
            f"    - {network}",
            f"  peer_persistent_keepalive: {profile.keepalive}s",
            "  reboot_timeout: 0s",
            "",
        ]
    )
