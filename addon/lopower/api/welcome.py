"""The page at http://10.90.0.1/: it tells a device who it is and what works."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

from aiohttp import web

Who = Callable[[str], dict[str, Any] | None]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src http:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}
_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript"}


class Welcome:
    """Answers requests that came through the tunnel; `who` maps a source address to a device."""

    def __init__(self, who: Who, hosts: frozenset[str]) -> None:
        self._who = who
        self._hosts = hosts
        folder = resources.files("lopower.api") / "page"
        self._files = {
            f"/{name}": ((folder / name).read_bytes(), _TYPES[name.rpartition(".")[2]])
            for name in ("index.html", "page.css", "page.js")
        }
        self._files["/"] = self._files["/index.html"]

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        # A page of another name that resolves to us must not read what this one says.
        if request.host.rpartition(":80")[0] not in self._hosts and request.host not in self._hosts:
            return web.Response(status=421, text="This is the LoPower gateway.\n")
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, headers={"Allow": "GET, HEAD"})
        if request.path == "/ping":
            return web.Response(headers=_HEADERS | {"Access-Control-Allow-Origin": "*"})
        if request.path == "/who":
            return self._tell(request)
        found = self._files.get(request.path)
        if found is None:
            return web.Response(status=404, text="There is nothing here. Try /\n")
        body, kind = found
        return web.Response(body=body, content_type=kind, charset="utf-8", headers=_HEADERS)

    def _tell(self, request: web.BaseRequest) -> web.Response:
        device = self._who(request.remote or "")
        if device is None:
            return web.json_response({"detail": "unknown device"}, status=404, headers=_HEADERS)
        return web.json_response(device, headers=_HEADERS)
