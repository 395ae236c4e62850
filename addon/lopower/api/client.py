"""The control socket's client; without aiohttp, for commands should start quickly."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from lopower.devices.errors import InUse, from_problem

SOCKET = "control.sock"
# Where the socket is, when the data directory's path is too long for one.
POINTER = "control.path"
# Linux's sun_path has 108 bytes with the final zero, other systems have 104.
MAX_PATH = 103
# An operation takes milliseconds; on a slow SD card its flush may take seconds.
TIMEOUT = 30.0


class ControlClient:
    """Calls the operations of the gateway that runs on a data directory."""

    def __init__(self, connection: UnixConnection) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, data: Path) -> ControlClient | None:
        """A client, or None when no gateway listens there."""
        path = data / SOCKET
        with suppress(OSError):
            path = Path((data / POINTER).read_text())
        if len(os.fsencode(path)) > MAX_PATH:
            return None
        connection = UnixConnection(path)
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionError, NotADirectoryError):
            return None
        except OSError as error:
            raise InUse(f"Cannot reach the gateway at {path}: {error.strerror}.") from None
        return cls(connection)

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation in the gateway; UserError as it was raised there."""
        body = json.dumps(arguments)
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request("POST", f"/v1/{operation}", body, headers)
            response = self._connection.getresponse()
            answer = json.loads(response.read())
        except TimeoutError:
            raise InUse(f"The gateway did not answer within {TIMEOUT:.0f} s.") from None
        except (OSError, http.client.HTTPException, ValueError):
            raise InUse(
                "The gateway went away before it answered: "
                "look with 'lopower devices' whether the change was made."
            ) from None
        if response.status != 200:
            raise from_problem(response.status, answer["exit_code"], answer["detail"])
        return answer

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self._path = path

    def connect(self) -> None:
        """Connect to the path instead of a host."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(TIMEOUT)
        try:
            self.sock.connect(str(self._path))
        except OSError:
            self.close()
            raise
