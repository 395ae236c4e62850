"""The control socket's client; without aiohttp, for commands should start quickly."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
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


class NotStarted(InUse):
    """The gateway went away before it took the operation up: nothing has happened."""


class ControlClient:
    """Calls one operation of the gateway that runs on a data directory."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    @classmethod
    def connect(cls, data: Path) -> ControlClient | None:
        """A client, or None when no gateway listens there."""
        path = data / SOCKET
        with suppress(OSError):
            path = Path((data / POINTER).read_text())
        if len(os.fsencode(path)) > MAX_PATH:
            return None
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(TIMEOUT)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if isinstance(error, FileNotFoundError | ConnectionError | NotADirectoryError):
                return None
            raise InUse(f"Cannot reach the gateway at {path}: {error.strerror}.") from None
        return cls(connection)

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """Run an operation in the gateway; UserError as it was raised there.

        The gateway says 100 Continue when it begins: if it goes away without a word, nothing has
        happened (NotStarted).
        """
        try:
            self._begin(operation, json.dumps(arguments).encode())
            response = http.client.HTTPResponse(self._connection, method="POST")
            response.begin()
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

    def _begin(self, operation: str, body: bytes) -> None:
        head = (
            f"POST /v1/{operation} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        try:
            self._connection.sendall(head.encode() + body)
            begun = self._connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            begun = b""
        if not begun:
            raise NotStarted("The gateway is stopping; try again.")

    def close(self) -> None:
        """Hang up."""
        self._connection.close()


class RunningGateway:
    """The gateway that runs on a data directory, for as many operations as one likes."""

    def __init__(self, data: Path) -> None:
        self._data = data

    def found(self) -> bool:
        """Whether there is one."""
        client = ControlClient.connect(self._data)
        if client is not None:
            client.close()
        return client is not None

    def call(self, operation: str, arguments: Mapping[str, Any]) -> Any:
        """The operation's result; InUse when there is no gateway."""
        client = ControlClient.connect(self._data)
        if client is None:
            raise InUse(f"No gateway is running on {self._data}.")
        with closing(client):
            return client.call(operation, arguments)
