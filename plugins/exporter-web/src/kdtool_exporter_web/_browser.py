"""A headless Chromium that runs the exported page's own code and returns its tokens and logits."""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple
from urllib.parse import parse_qsl, urlsplit

import kdtool
import numpy as np
from numpy.typing import NDArray

from kdtool_exporter_web._serving import serving

__all__ = ["Ran", "find_chromium", "run_in_browser"]

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
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
    return next(filter(None, map(shutil.which, _NAMES)), None)


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
        "/measure.js": files("kdtool_exporter_web").joinpath("page", "measure.js").read_bytes(),
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
        path, body = _next(posted, browser, timeout)
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


def _next(
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
