"""One network, one gateway and one phone for all; tests that break things ask for their own."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import pytest

from tests.lab import peers
from tests.lab.client import Client, Implementation, command
from tests.lab.gateway import PORT, Gateway
from tests.lab.namespace import Namespace, sweep, why_not
from tests.lab.network import GATEWAY, INNER, INNER6, TARGET, TARGET6, Network
from tests.lab.servers import DnsServer, TcpServer, UdpServer, digest, echo, source

# Ports of the servers in the target's namespace.
ECHO, DIGEST, SOURCE, DEAF, CLOSED = 7000, 7001, 7002, 7003, 9
ALLOW = ("--allow", INNER, "--allow", INNER6)

_ports = itertools.count(PORT + 1)


class Device:
    """An enrolled device: what it was given, and the client that uses it."""

    def __init__(self, enrolled: dict[str, Any], client: Client) -> None:
        self.enrolled = enrolled
        self.client = client
        self.namespace = client.namespace
        self.name: str = enrolled["name"]

    def address(self, version: int) -> str:
        """Its address inside the tunnel."""
        plain = (address.split("/")[0] for address in self.enrolled["addresses"])
        return next(str(address) for address in plain if (":" in address) == (version == 6))


class MakeDevice(Protocol):
    def __call__(
        self, gateway: Gateway, name: str, implementation: Implementation = "debian"
    ) -> Device: ...


@pytest.fixture(scope="session", autouse=True)
def possible() -> None:
    """Skips everything here where the machine cannot do it, and says why."""
    if reason := why_not():
        pytest.skip(f"end-to-end tests: {reason}")
    if lacking := peers.missing(peers.FOR_TESTS):
        packages = " ".join(peers.FOR_TESTS[command] for command in lacking)
        pytest.skip(f"end-to-end tests: missing {lacking}: apt-get install {packages}")
    sweep()


@pytest.fixture(scope="session")
def network(possible: None) -> Iterator[Network]:
    made = Network()
    yield made
    made.close()


@pytest.fixture(scope="session")
def target(network: Network) -> Iterator[Namespace]:
    """The target's namespace with its servers running, on IPv4 and IPv6."""
    with ExitStack() as running:
        for address in (TARGET, TARGET6):
            for port, talk in ((ECHO, echo), (DIGEST, digest), (SOURCE, source)):
                running.callback(TcpServer(network.target, address, port, talk).close)
            running.callback(UdpServer(network.target, address, ECHO).close)
        yield network.target


@pytest.fixture(scope="session")
def upstream(network: Network) -> Iterator[DnsServer]:
    server = DnsServer(network.target, TARGET)
    yield server
    server.close()


@pytest.fixture(scope="session")
def make_gateway(
    network: Network, target: Namespace, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Gateway]]:
    """Starts gateways, each with its own data and port; all end with the session."""
    with ExitStack() as running:

        def make(*options: str) -> Gateway:
            data: Path = tmp_path_factory.mktemp("gateway") / "data"
            gateway = Gateway(network.gateway, data, GATEWAY, *options, port=next(_ports))
            running.callback(gateway.close)
            return gateway

        yield make


@pytest.fixture(scope="session")
def gateway(make_gateway: Callable[..., Gateway], upstream: DnsServer) -> Gateway:
    """The gateway most tests share."""
    return make_gateway(*ALLOW, "--upstream", f"{TARGET}:53")


@pytest.fixture(scope="session")
def make_device(network: Network) -> Iterator[MakeDevice]:
    """Enrols a device and connects a client with nothing but the printed file."""
    with ExitStack() as running:

        def make(gateway: Gateway, name: str, implementation: Implementation = "debian") -> Device:
            if command(implementation, "") is None:
                pytest.skip(f"no {implementation} WireGuard client here, see tests/lab/peers.py")
            enrolled = gateway.enroll(name)
            client = Client(network.client(), enrolled["profile"], implementation)
            running.callback(client.close)
            return Device(enrolled, client)

        yield make


@pytest.fixture(scope="session")
def phone(gateway: Gateway, make_device: MakeDevice) -> Device:
    """The device most tests share."""
    return make_device(gateway, "phone")


@pytest.fixture(scope="session")
def laptop(gateway: Gateway, make_device: MakeDevice) -> Device:
    """A second device at the same gateway."""
    return make_device(gateway, "laptop")


@pytest.fixture(autouse=True)
def quiet_log(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test may leave a traceback in the log of the shared gateway."""
    log = request.getfixturevalue("gateway").log if "gateway" in request.fixturenames else None
    before = len(log.read_text()) if log else 0
    yield
    if log:
        written = log.read_text()[before:]
        assert "Traceback" not in written, written[-3000:]
