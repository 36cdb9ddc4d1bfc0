"""Listen on a free port, and serve the application or a static folder until Ctrl-C.

Slow and silent clients cannot block connections. A static folder is served to this machine only, with the headers that
WebAssembly needs for several threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import os
import re
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import ClassVar

import click
import h11
import kdtool
import uvicorn
from h11._receivebuffer import ReceiveBuffer
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.responses import Response
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

from kdtool_serve.errors import RequestError

FIRST_PORT = 5000
_PORTS = 100
_INTERRUPTED = 130
_HEADER_BYTES = 32_768
_LOCAL = ("127.0.0.1", "localhost", "::1")


def is_local(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    return host in _LOCAL


def listen(host: str, port: int | None) -> socket.socket:
    """Return a socket on `port`, or on the first free one from 5000 on.

    Raises:
        UsageError: the port is in use, or the machine has no such address.
    """
    for tried in range(FIRST_PORT, FIRST_PORT + _PORTS) if port is None else (port,):
        if tried and _is_answered(tried) and is_local(host):
            continue
        try:
            return _bind(host, tried)
        except OSError as error:
            if error.errno not in {errno.EADDRINUSE, errno.EACCES}:
                raise kdtool.UsageError(f"--host {host}: this machine cannot listen there: {error.strerror}") from None
    if port is None:
        raise kdtool.UsageError(
            f"all ports from {FIRST_PORT} to {FIRST_PORT + _PORTS - 1} are in use; name one: --port"
        )
    raise kdtool.UsageError(
        f"--port {port}: it is in use, or reserved; leave it out to take the next free one from 5000 on"
    )


def run(app: Starlette, listener: socket.socket, ready: Callable[[], None]) -> None:
    """Serve until Ctrl-C or SIGTERM; `ready` is called when the first request would be answered."""
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn ends, and then raises the signal again
        make_server(app, ready).run(sockets=[listener])


def make_server(app: Starlette, ready: Callable[[], None]) -> uvicorn.Server:
    """Return the server that `run` runs, for an application of `create_app` or `create_static_app`."""
    config = uvicorn.Config(
        app,
        http=Connection,
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
        backlog=1024,
    )
    pool = getattr(app.state, "pool", None)  # a static page has none
    return _Server(config, ready, pool.cancel if pool else lambda: None)


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], cancel: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready
        self._cancel = cancel
        self._stopped: float | None = None

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End; at a second signal, at once. One within a second is the first again, which tools such as `uv run` pass on."""
        if self._stopped is None:
            self._stopped = time.monotonic()
            super().handle_exit(sig, frame)
        elif time.monotonic() - self._stopped > 1:
            os._exit(_INTERRUPTED)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._cancel()  # responses end by themselves then
        await super().shutdown(sockets)


def _bind(host: str, port: int) -> socket.socket:
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    # asyncio sets TCP_NODELAY only if the protocol is named; otherwise each body waits 40 ms behind its headers
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if sys.platform != "win32":  # there, it would share the port with another program
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1024)
    except BaseException:
        listener.close()
        raise
    return listener


def _is_answered(port: int) -> bool:
    """Return whether a program of this machine answers on a port.

    It may listen on all addresses, as AirPlay of macOS does on port 5000: binding 127.0.0.1 would succeed in addition.
    """
    for host in ("127.0.0.1", "::1"):
        with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=0.2):
            return True
    return False


class _Lines(ReceiveBuffer):
    """h11's lines of headers and trailers: without CR, or continued on the next line, others would read them otherwise."""

    def maybe_extract_lines(self) -> list[bytearray] | None:
        before = bytes(self)
        lines = super().maybe_extract_lines()
        if lines is not None and _AMBIGUOUS.search(before[: len(before) - len(self)]):
            raise h11.RemoteProtocolError("a header's line ends without CR, or is continued")
        return lines


_AMBIGUOUS = re.compile(rb"(?<!\r)\n|\n[ \t]")


class Connection(H11Protocol):
    """uvicorn's connection, limited where uvicorn has no limit.

    A request must arrive in time, and a client must read the response. At the greatest number of connections, a new one
    replaces the one that has been silent longest.
    """

    most: ClassVar[int] = 256
    """Connections at once."""
    request_seconds: ClassVar[float] = 30.0
    """Time for a whole request to arrive, headers and body."""
    unread_seconds: ClassVar[float] = 30.0
    """Time in which a client must read part of the sent data."""

    _silent_since = 0.0
    _arriving: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.conn = h11.Connection(h11.SERVER, _HEADER_BYTES)
        self.conn._receive_buffer = _Lines()
        self._silent_since = time.monotonic()
        self._expect_request()
        others = [each for each in self.connections if isinstance(each, Connection) and each is not self]
        others = [each for each in others if not each.transport.is_closing()]
        if len(others) >= self.most:
            silent = [each for each in others if not each._is_answering()]
            if silent:
                min(silent, key=lambda each: each._silent_since).transport.abort()
            else:
                self._turn_away()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._silent_since = time.monotonic()
        if self.conn.their_state in {h11.IDLE, h11.SEND_BODY}:
            self._expect_request()
        else:
            _stop_timer(self._arriving)
            self._arriving = None

    def pause_writing(self) -> None:
        super().pause_writing()
        self._unread = self._unread or self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        _stop_timer(self._unread)
        self._unread = None
        super().resume_writing()

    def timeout_keep_alive_handler(self) -> None:
        self.transport.abort()  # `close` would wait until the client has read everything

    def connection_lost(self, exc: Exception | None) -> None:
        _stop_timer(self._arriving)
        _stop_timer(self._unread)
        super().connection_lost(exc)
        self._unset_keepalive_if_required()

    def _expect_request(self) -> None:
        self._arriving = self._arriving or self.loop.call_later(self.request_seconds, self.transport.abort)

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _turn_away(self) -> None:
        error = RequestError("all connections are in use; try again soon", status=503, code="too_many_connections")
        body = json.dumps(error.body()).encode()
        head = f"HTTP/1.1 503 Service Unavailable\r\nContent-Length: {len(body)}\r\nRetry-After: 1\r\n"
        self.transport.write(f"{head}Content-Type: application/json\r\nConnection: close\r\n\r\n".encode() + body)
        self.transport.close()


def _stop_timer(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


_STATIC_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}
_CONTENT_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}
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
        url = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}/"

        def ready() -> None:
            kdtool.say(f"page  {url}  (Ctrl-C ends it)")
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
        response.headers.update(_STATIC_HEADERS)
        kind = _CONTENT_TYPES.get(Path(path).suffix)
        if kind and response.status_code == 200:
            response.headers["Content-Type"] = kind
        return response
