"""LoPower, as `lopower run` starts it."""

from __future__ import annotations

import time

from bench.contract import Contract, become
from lopower.api.client import RunningGateway
from tests.lab.gateway import LOPOWER


def main() -> None:
    contract = Contract.read()
    command = [
        *(str(LOPOWER), "run", "--data", str(contract.folder / "data"), "--no-view"),
        *("--listen", str(contract.port), "--endpoint", f"{contract.endpoint}:{contract.port}"),
        *("--backend", "system", "--upstream", contract.upstream),
    ]
    for rule in contract.allow:
        command += ["--allow", rule]
    become(command, lambda: enroll(contract))


def enroll(contract: Contract) -> None:
    """Enrols the devices through the gateway's own control socket, once it is there."""
    gateway = RunningGateway(contract.folder / "data")
    while not gateway.found():
        time.sleep(0.05)
    for number in range(1, contract.devices + 1):
        enrolled = gateway.call("enroll", {"name": f"device-{number}"})
        contract.write_profile(number, enrolled["profile"])


if __name__ == "__main__":
    main()
