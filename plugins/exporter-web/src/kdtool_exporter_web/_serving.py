"""A server of one folder on 127.0.0.1, for the time of a measurement; the measured page posts its results to it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from os import PathLike
from pathlib import Path

__all__ = ["ISOLATION", "serving"]

ISOLATION = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
}
"""Headers without which browsers give a page one thread of WebAssembly."""


@contextmanager
def serving(folder: Path, extra: Mapping[str, bytes], receive: Callable[[str, bytes], None]) -> Iterator[str]:
    """Serve a folder and `extra` files, by path; yield the address. Posted bodies go to `receive`, with their path."""
    handler = partial(_Handler, extra=extra, receive=receive, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


class _Handler(SimpleHTTPRequestHandler):
    def __init__(
        self, *args: object, extra: Mapping[str, bytes], receive: Callable[[str, bytes], None], directory: str
    ) -> None:
        self._extra, self._receive = extra, receive
        super().__init__(*args, directory=directory)  # type: ignore[arg-type]

    def guess_type(self, path: str | PathLike[str]) -> str:
        """Return the content type of a file; the table of a machine may have another one for scripts."""
        return "text/javascript" if str(path).endswith((".js", ".mjs")) else super().guess_type(path)

    def do_GET(self) -> None:
        content = self._extra.get(self.path)
        if content is None:
            super().do_GET()
            return
        self.send_response(200)
        self.send_header("Content-Type", self.guess_type(self.path))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def do_POST(self) -> None:
        self._receive(self.path, self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(204)
        self.end_headers()

    def end_headers(self) -> None:
        for name, value in ISOLATION.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - of the base class
        """Print nothing."""
