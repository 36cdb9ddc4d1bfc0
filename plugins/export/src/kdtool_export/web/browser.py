"""A headless Chromium that runs the exported page's own code and returns its tokens and logits.

A server on 127.0.0.1 serves the folder while the measurement runs, and the page posts its results to it.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import kdtool
import numpy as np
from numpy.typing import NDArray

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = [
    *("--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-sync", "--disable-extensions"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    *("--enable-unsafe-webgpu", "--use-webgpu-adapter=swiftshader"),
]
"""SwiftShader computes WebGPU on the processor: machines with and without a GPU measure the same."""
_PAGE = b'<!doctype html><meta charset="utf-8"><script type="module" src="/measure.js"></script>'


class Ran(NamedTuple):
    """Logits [positions, vocabulary] of all windows, and seconds: the longest first step, and all later ones."""

    logits: NDArray[np.float32]
    first: float
    later: float
    steps: int


def find_chromium() -> str | None:
    """Return the path of an installed Chromium or Chrome; None if there is none."""
    return next(filter(None, map(shutil.which, _PROGRAMS)), None)


def run_in_browser(
    chromium: str,
    folder: Path,
    windows: Sequence[Sequence[int]],
    steps: Mapping[str, int],
    texts: Sequence[str],
    cases: Sequence[tuple[str, str]],
    timeout: float,
    progress: Callable[[int], None],
) -> tuple[list[list[int]], Mapping[tuple[str, str], Ran]]:
    """Return the page's tokens of `texts`, and the logits of each of the `cases`, pairs of type and backend.

    A window's last tokens, as many as `steps` has for the backend, are read one by one, the others at once. Cases whose
    backend is missing are left out. `progress` is called with the number of windows that were read so far.

    Raises:
        PluginError: the page failed, or sent nothing for `timeout` seconds after its last message.
    """
    job = {"windows": windows, "steps": steps, "texts": texts, "cases": cases}
    extra = {
        "/measure.html": _PAGE,
        "/measure.js": files("kdtool_export.web").joinpath("page", "measure.js").read_bytes(),
        "/measurement.json": json.dumps(job).encode(),
    }
    posted: queue.Queue[tuple[str, bytes]] = queue.Queue()
    with (
        serving(folder, extra, lambda path, body: posted.put((path, body))) as address,
        _start_chromium(chromium, f"{address}/measure.html") as browser,
    ):
        return _collect(posted, browser, timeout, sum(map(len, windows)), progress)


def _collect(
    posted: queue.Queue[tuple[str, bytes]],
    browser: subprocess.Popen[bytes],
    timeout: float,
    positions: int,
    progress: Callable[[int], None],
) -> tuple[list[list[int]], Mapping[tuple[str, str], Ran]]:
    tokens: list[list[int]] = []
    ran: dict[tuple[str, str], Ran] = {}
    read = 0
    while True:
        path, body = _next_message(posted, browser, timeout)
        address = urlsplit(path)
        kind, query = address.path.rpartition("/")[2], dict(parse_qsl(address.query))
        if kind == "end":
            return tokens, ran
        if kind == "tokens":
            tokens = json.loads(body)
        elif kind == "window":
            read += 1
            progress(read)
        elif kind == "logits":
            logits = np.frombuffer(body, np.float32).reshape(positions, -1)
            seconds = float(query["first"]) / 1000, float(query["later"]) / 1000
            ran[query["dtype"], query["backend"]] = Ran(logits, *seconds, int(query["steps"]))
        else:
            raise kdtool.PluginError(
                f"web: the page failed in Chromium: {body.decode(errors='replace')[:2000]}; export onnx or gguf instead"
            )


def _next_message(
    posted: queue.Queue[tuple[str, bytes]], browser: subprocess.Popen[bytes], timeout: float
) -> tuple[str, bytes]:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        try:
            return posted.get(timeout=1)
        except queue.Empty:
            if browser.poll() is not None:
                break
    state = f"ended with status {browser.poll()}" if browser.poll() is not None else f"sent nothing in {timeout:g} s"
    raise kdtool.PluginError(
        f"web.browser: Chromium {state}; expected measurements of the page: see whether it starts "
        "(`chromium --headless --version`), or set browser: none to export without measuring in a browser"
    )


@contextmanager
def _start_chromium(chromium: str, address: str) -> Iterator[subprocess.Popen[bytes]]:
    with TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [chromium, *_FLAGS, f"--user-data-dir={profile}", address]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)  # noqa: S603
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


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
