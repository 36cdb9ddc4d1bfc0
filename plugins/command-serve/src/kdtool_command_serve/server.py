"""Listen on a free port, and run the application until Ctrl-C."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

import kdtool
import uvicorn
from starlette.applications import Starlette

from kdtool_command_serve.connection import Connection

__all__ = ["is_local", "listen", "make_server", "run"]

FIRST_PORT = 5000
_PORTS = 100
_INTERRUPTED = 130
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
        h11_max_incomplete_event_size=32_768,
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
