"""The laboratory's network:

    client ── 198.18.1.0/24, fd18::/64 ── gateway ── 10.72.0.0/16, fd72::/64 ── target

The target stands for whatever the gateway's host can reach. Clients do not know of it.
"""

from __future__ import annotations

from tests.lab.namespace import Namespace, cable

CLIENT = "198.18.1.2"  # the first of them
GATEWAY, GATEWAY6 = "198.18.1.1", "fd18::1"
TARGET, TARGET6 = "10.72.0.2", "fd72::2"
INNER, INNER6 = "10.72.0.0/16", "fd72::/64"


class Network:
    """The gateway's and the target's namespaces, and as many clients as are asked for."""

    def __init__(self, *, bridged: bool = True) -> None:
        self.bridged = bridged
        self.gateway = Namespace("gateway")
        self.target = Namespace("target")
        self.clients: list[Namespace] = []
        cable(self.gateway, "inner", self.target, "eth0")
        self.gateway.address("inner", "10.72.0.1/16", "fd72::1/64")
        self.target.address("eth0", f"{TARGET}/16", f"{TARGET6}/64")
        if bridged:
            self.gateway.ip("link", "add", "outer", "type", "bridge")
            self.gateway.address("outer", f"{GATEWAY}/24", f"{GATEWAY6}/64")

    def client(self) -> Namespace:
        """One more client. Without a bridge there is one: its packets take the shortest way."""
        number = len(self.clients) + 1
        client = Namespace(f"client{number}")
        self.clients.append(client)
        if self.bridged:
            cable(client, "eth0", self.gateway, f"port{number}")
            self.gateway.ip("link", "set", f"port{number}", "master", "outer", "up")
        else:
            cable(client, "eth0", self.gateway, "outer")
            self.gateway.address("outer", f"{GATEWAY}/24", f"{GATEWAY6}/64")
        client.address("eth0", f"198.18.1.{number + 1}/24", f"fd18::{number + 1:x}/64")
        return client

    def close(self) -> None:
        for namespace in (*self.clients, self.gateway, self.target):
            namespace.close()
