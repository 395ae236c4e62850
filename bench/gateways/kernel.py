"""Plain wireguard-go with a TUN device, the kernel's TCP and its NAT: what people use instead.

Argument: which wireguard-go, `current` or `debian`.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import cast

from bench.contract import Contract, become
from bench.gateways.keys import PROFILE, addresses, key_pair, preshared_key
from tests.lab.client import Implementation, command, wait_for
from tests.lab.namespace import unique

NAT = "table inet bench { chain nat { type nat hook postrouting priority 100; masquerade; }; }"
GATEWAY = ("10.90.0.1/16", "fd7a:115c:a1e0:9909::1/64")


def main() -> None:
    device = unique("lpk")
    start = command(cast(Implementation, sys.argv[1]), device)
    if start is None:
        sys.exit(f"no {sys.argv[1]} wireguard-go on this machine")
    become(start, lambda: configure(Contract.read(), device))


def configure(contract: Contract, device: str) -> None:
    """Addresses, forwarding, NAT and all devices, once wireguard-go listens."""
    wait_for(Path("/run/wireguard", f"{device}.sock").exists, "wireguard-go")
    private, public = key_pair()
    lines = ["[Interface]", f"PrivateKey = {private}", f"ListenPort = {contract.port}"]
    profiles = []
    for number in range(1, contract.devices + 1):
        peer, profile = new_device(contract, public, number)
        lines += peer
        profiles.append(profile)
    configuration = contract.folder / "gateway.conf"
    configuration.write_text("\n".join(lines))
    run("wg", "setconf", device, str(configuration))
    for address in GATEWAY:
        run("ip", "address", "add", address, "dev", device)
    run("ip", "link", "set", device, "mtu", "1280", "up")
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
    Path("/proc/sys/net/ipv6/conf/all/forwarding").write_text("1")
    run("nft", NAT)
    for number, profile in enumerate(profiles, 1):
        contract.write_profile(number, profile)


def new_device(contract: Contract, server: str, number: int) -> tuple[list[str], str]:
    """One device: its peer section at the gateway, and its own file."""
    private, public = key_pair()
    preshared, own = preshared_key(), addresses(number)
    peer = [
        *("[Peer]", f"PublicKey = {public}", f"PresharedKey = {preshared}"),
        f"AllowedIPs = {', '.join(own)}",
    ]
    allowed = ", ".join(("10.90.0.0/16", "fd7a:115c:a1e0:9909::/64", *contract.allow))
    profile = PROFILE.format(
        private=private,
        addresses=", ".join(own),
        extra="",
        server=server,
        preshared=f"PresharedKey = {preshared}\n",
        endpoint=f"{contract.endpoint}:{contract.port}",
        allowed=allowed,
    )
    return peer, profile


def run(*arguments: str) -> None:
    subprocess.run(arguments, check=True)


if __name__ == "__main__":
    main()
