"""A server that runs in a thread of the test, on a port of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from kdtool_serve import create_app
from kdtool_serve.pool import Pool
from kdtool_serve.server import listen, make_server
from openai import OpenAI


class Running:
    """A running server: its address, its models and a client."""

    def __init__(self, port: int, pool: Pool, server: uvicorn.Server) -> None:
        self.port = port
        self._server = server
        self.pool = pool
        self.url = f"http://127.0.0.1:{port}"

    def stop(self) -> None:
        """End as Ctrl-C does."""
        self._server.should_exit = True

    def connections(self) -> int:
        """Return how many are open."""
        return len(self._server.server_state.connections)

    def openai(self, key: str = "none") -> OpenAI:
        """Return the official client, which does not try again."""
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=20)

    def post(self, path: str, **body: Any) -> httpx.Response:
        """Send JSON."""
        return httpx.post(self.url + path, json=body, timeout=20)

    def get(self, path: str, **headers: str) -> httpx.Response:
        """Read."""
        return httpx.get(self.url + path, headers=headers, timeout=20)


@contextmanager
def running(models: Any, **options: Any) -> Iterator[Running]:
    """Serve models; arguments as for `create_app`."""
    app = create_app(models, **options)
    listener = listen("127.0.0.1", 0)
    ready = threading.Event()
    server = make_server(app, ready.set)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    assert ready.wait(20)
    try:
        yield Running(listener.getsockname()[1], app.state.pool, server)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server ends within seconds"
