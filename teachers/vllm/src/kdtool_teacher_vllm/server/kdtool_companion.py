"""Sends files of hidden states from the machine of a vLLM server, and deletes each when it was sent.

Run it on the machine of vLLM; it needs only the standard library: `python kdtool_companion.py FOLDER --port 8001`. On
another address than 127.0.0.1 it requires a key, which it reads from the environment variable VLLM_API_KEY, as vLLM does.

    GET /server          the facts that the connector wrote
    GET /states/NAME     one file, once the server has written it
"""

from __future__ import annotations

import argparse
import fcntl
import hmac
import ipaddress
import os
import re
import shutil
import sys
import time
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

KEY_VARIABLE = "VLLM_API_KEY"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,200}\.safetensors")
_SECONDS = 60.0


class Companion(BaseHTTPRequestHandler):
    """Answers for one folder; `folder` and `key` are set by `main`."""

    protocol_version = "HTTP/1.1"
    timeout = 60.0
    folder = Path()
    key = b""

    def do_GET(self) -> None:
        """Send what the path names."""
        shown = self.headers.get("Authorization", "").encode()
        if self.key and not hmac.compare_digest(shown, b"Bearer " + self.key):
            self._refuse(401, "the key is missing or wrong")
        elif self.path == "/server":
            self._send("server.json", delete=False)
        elif self.path.startswith("/states/") and _NAME.fullmatch(name := self.path.removeprefix("/states/")):
            wait_until_written(self.folder / name)
            self._send(name, delete=True)
        else:
            self._refuse(404, "unknown path")

    def _send(self, name: str, *, delete: bool) -> None:
        path = self.folder / name
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            self._refuse(404, "no such file")
            return
        with os.fdopen(descriptor, "rb") as file:
            self.send_response(200)
            self.send_header("Content-Type", "application/octet-stream")
            self.send_header("Content-Length", str(os.fstat(descriptor).st_size))
            self.end_headers()
            shutil.copyfileobj(file, self.wfile, 1 << 20)
        if delete:  # an exception comes here only after a whole file
            path.unlink(missing_ok=True)
            Path(f"{path}.lock").unlink(missing_ok=True)

    def _refuse(self, status: int, reason: str) -> None:
        body = reason.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def handle_one_request(self) -> None:
        """Answer a request; a client that disconnects is not an error."""
        try:
            super().handle_one_request()
        except (ConnectionError, TimeoutError):
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Log nothing: paths are of no use, and headers hold keys."""


def wait_until_written(path: Path, seconds: float = _SECONDS) -> None:
    """Wait while the server holds the lock of a file, which it takes before it returns the name."""
    end = time.monotonic() + seconds
    with suppress(FileNotFoundError), Path(f"{path}.lock").open("rb") as lock:
        while time.monotonic() < end:
            try:
                fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                time.sleep(0.002)
            else:
                return


def main() -> int:
    """Serve until killed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="the connector's shared_storage_path")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    given = parser.parse_args()
    Companion.key = os.environ.get(KEY_VARIABLE, "").encode()
    Companion.folder = given.folder
    if not Companion.key and not _is_loopback(given.host):
        print(f"--host {given.host} lets other machines in: set {KEY_VARIABLE} to a key first", file=sys.stderr)
        return 2
    given.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    server = ThreadingHTTPServer((given.host, given.port), Companion)
    server.daemon_threads = True
    print(f"states of {given.folder} on http://{given.host}:{server.server_address[1]}", flush=True)
    try:
        server.serve_forever()
    except KeyboardInterrupt:
        server.server_close()
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


if __name__ == "__main__":
    sys.exit(main())
