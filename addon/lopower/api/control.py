"""The control socket's server: a running gateway's operations for commands on the same machine.

`POST /v1/<operation>` with a JSON object as arguments; the answer is JSON, or a problem (RFC 9457).
Only the owner of the data directory can reach the socket; there is no other authentication.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from lopower.devices.administration import Administration
from lopower.devices.errors import UserError

from .client import MAX_PATH, POINTER, SOCKET

log = logging.getLogger(__name__)

MAX_BODY = 256 * 1024
# Operations do not wait for anything: whoever has not sent all of a request by then is too late.
STOPPING = 1.0
BEGUN = b"HTTP/1.1 100 Continue\r\n\r\n"


class ControlServer:
    """Serves an Administration on DATA/control.sock; its owner holds the lock of DATA."""

    def __init__(self, administration: Administration, data: Path) -> None:
        self._administration = administration
        self._data = data
        self._directory: Path | None = None
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Listen; what a killed gateway left behind is cleared away."""
        path = self._place()
        self._clear()
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/v1/{operation}", self._handle)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=STOPPING)
        await self._runner.setup()
        await web.UnixSite(self._runner, path).start()
        path.chmod(0o600)
        if path.parent != self._data:
            _write_pointer(self._data / POINTER, path)

    async def stop(self) -> None:
        """Finish what is being answered, then take the socket away."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
        self._clear()
        if self._directory is not None:
            shutil.rmtree(self._directory, ignore_errors=True)
            self._directory = None

    def _place(self) -> Path:
        path = self._data / SOCKET
        if len(os.fsencode(path)) <= MAX_PATH:
            return path
        for base in (os.environ.get("XDG_RUNTIME_DIR"), tempfile.gettempdir(), "/tmp"):  # noqa: S108
            if base and len(base) < MAX_PATH - 40:
                with suppress(OSError):
                    self._directory = Path(tempfile.mkdtemp(prefix="lopower-", dir=base))
                    return self._directory / SOCKET
        raise UserError(f"The path {path} is too long for a socket: choose a shorter --data.")

    def _clear(self) -> None:
        pointer = self._data / POINTER
        with suppress(OSError):
            former = Path(pointer.read_text())
            former.unlink()
            former.parent.rmdir()
        for path in (pointer, self._data / SOCKET):
            with suppress(OSError):
                path.unlink()

    async def _handle(self, request: web.Request) -> web.Response:
        operation = request.match_info["operation"]
        try:
            arguments = await request.json() if request.can_read_body else {}
            if not isinstance(arguments, dict):
                raise UserError("The arguments must be a JSON object.")
            _say_begun(request)
            return web.json_response(self._administration.call(operation, arguments))
        except UserError as error:
            return _problem(error.status, str(error), error.exit_code)
        except ValueError:
            return _problem(400, "The body is not JSON.", 1)
        except (web.HTTPException, asyncio.CancelledError, ConnectionError):
            raise
        except Exception:
            log.exception("the operation %s failed", operation)
            return _problem(500, "The gateway failed to do this; its log says why.", 1)


def _say_begun(request: web.Request) -> None:
    """From here on the operation happens, whether its caller hears of it or not."""
    if request.transport is None or request.transport.is_closing():
        raise ConnectionResetError
    request.transport.write(BEGUN)


def _problem(status: int, sentence: str, exit_code: int) -> web.Response:
    body = {"type": "about:blank", "status": status, "detail": sentence, "exit_code": exit_code}
    return web.json_response(body, status=status, content_type="application/problem+json")


def _write_pointer(pointer: Path, path: Path) -> None:
    draft = pointer.with_suffix(".new")
    draft.write_text(str(path))
    draft.rename(pointer)
