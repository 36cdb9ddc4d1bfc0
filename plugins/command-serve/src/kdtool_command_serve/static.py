"""A static folder over HTTP on this machine, with the headers that WebAssembly needs for several threads."""

from __future__ import annotations

from pathlib import Path

import click
import kdtool
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from kdtool_command_serve.server import is_local, listen, run

__all__ = ["create_static_app", "serve_static"]

_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
"""Content types that browsers insist on; the table of a machine may have others."""


def serve_static(folder: Path, host: str, port: int | None, *, browser: bool) -> None:
    """Serve the page of a folder until Ctrl-C.

    Raises:
        UsageError: the folder has no index.html, or `host` is not of this machine only.
    """
    if not is_local(host):
        raise kdtool.UsageError(
            f"--host {host}: --static serves this machine only; expected 127.0.0.1: copy the folder to a web server "
            "for others"
        )
    app = create_static_app(folder)
    with listen(host, port) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"

        def ready() -> None:
            click.echo(f"page  {url}  (Ctrl-C ends it)")
            if browser:
                click.launch(url)

        run(app, listener, ready)


def create_static_app(folder: Path) -> Starlette:
    """Return the application (ASGI) that serves a folder with a page.

    Raises:
        UsageError: the folder has no index.html.
    """
    if not (folder / "index.html").is_file():
        raise kdtool.UsageError(
            f"--static: {folder} has no index.html; expected a folder that the exporter web wrote: add `web` to the "
            "recipe's exporters, or leave out --static"
        )
    local = Middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost", "[::1]"], www_redirect=False)
    return Starlette(routes=[Mount("/", _Files(directory=folder, html=True))], middleware=[local])


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(_HEADERS)
        kind = _TYPES.get(Path(path).suffix)
        if kind and response.status_code == 200:
            response.headers["Content-Type"] = kind
        return response
