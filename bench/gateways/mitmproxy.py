"""mitmproxy_rs's WireGuard server, with the plainest relay that asyncio allows.

`install()` puts it into an environment of its own, in the user's cache.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

REQUIREMENT = "mitmproxy_rs>=0.11,<0.13"
CHUNK = 65536


def install(cache: Path) -> Path | None:
    """The Python that has mitmproxy_rs, made on first use; None where there are no wheels."""
    folder = cache / "mitmproxy_rs"
    python = folder / "bin" / "python"
    if works(python):
        return python
    newest_first = ("python3.14", "python3.13", "python3.12", "python3")
    for name in newest_first:
        found = shutil.which(name)
        if found and quiet(found, "-m", "venv", "--clear", str(folder)):
            pip = (str(python), "-m", "pip", "install", "--only-binary", ":all:")
            if quiet(*pip, REQUIREMENT, "cryptography") and works(python):
                return python
    return None


def works(python: Path) -> bool:
    return python.exists() and quiet(str(python), "-c", "import mitmproxy_rs, cryptography")


def quiet(*command: str) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


async def relay_tcp(stream: Any) -> None:
    """Dials where the device wanted to go, and copies both ways."""
    host, port = stream.get_extra_info("sockname")
    try:
        reader, writer = await asyncio.open_connection(host, port, limit=1 << 20)
    except OSError:
        stream.close()
        return
    await asyncio.gather(
        copy(stream, writer, finish=writer.write_eof),
        copy(reader, stream, finish=stream.write_eof),
        return_exceptions=True,
    )
    writer.close()
    stream.close()


async def copy(source: Any, sink: Any, finish: Any) -> None:
    while data := await source.read(CHUNK):
        sink.write(data)
        await sink.drain()
    finish()


class Answers(asyncio.DatagramProtocol):
    """Hands a target's datagrams to the device."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream

    def datagram_received(self, data: bytes, _: Any) -> None:
        self.stream.write(data)


async def relay_udp(stream: Any) -> None:
    """One socket for each flow; it ends with the flow."""
    target = stream.get_extra_info("sockname")
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Answers(stream), remote_addr=target)
    try:
        while data := await stream.read(CHUNK):
            transport.sendto(data)
    finally:
        transport.close()
        stream.close()


async def serve() -> None:
    import mitmproxy_rs.wireguard

    from bench.contract import Contract
    from bench.gateways.keys import PROFILE, addresses, key_pair

    contract = Contract.read()
    private, public = key_pair()
    keys = [key_pair() for _ in range(contract.devices)]
    server = await mitmproxy_rs.wireguard.start_wireguard_server(
        "0.0.0.0", contract.port, private, [pair[1] for pair in keys], relay_tcp, relay_udp
    )
    for number, (own_private, _) in enumerate(keys, 1):
        profile = PROFILE.format(
            private=own_private,
            addresses=", ".join(addresses(number)),
            extra="",
            server=public,
            preshared="",
            endpoint=f"{contract.endpoint}:{contract.port}",
            allowed=", ".join(("10.90.0.0/16", *contract.allow)),
        )
        contract.write_profile(number, profile)
    await server.wait_closed()


if __name__ == "__main__":
    if sys.argv[1:] == ["--check"]:
        sys.exit(0)
    asyncio.run(serve())
