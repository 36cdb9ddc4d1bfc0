"""A Hub on this machine with the part of its protocol that `datasets` uses for datasets of some files."""

from __future__ import annotations

import hashlib
import io
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import unquote, urlparse

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

COMMIT = "a" * 40
CARD = """---
configs:
- config_name: full
  data_files: [{split: train, path: full/train-*}, {split: test, path: full/test-*}]
- config_name: other
  data_files: [{split: train, path: other/train-*}]
---
"""
TABLE = "---\nconfigs: [{config_name: default, data_files: train.csv}]\n---\n"


def parquet(letter: str, rows: int) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist([{"content": f"{letter}{number}"} for number in range(rows)]), file)
    return file.getvalue()


class Hub(BaseHTTPRequestHandler):
    """Serves two datasets; it answers questions about the dataset `status/N` with that status."""

    protocol_version = "HTTP/1.1"
    sets: ClassVar[dict[str, dict[str, bytes]]] = {
        "some/set": {
            "README.md": CARD.encode(),
            "full/train-00000.parquet": parquet("x", 50),
            "full/test-00000.parquet": parquet("t", 5),
            "other/train-00000.parquet": parquet("o", 5),
        },
        "some/table": {"README.md": TABLE.encode(), "train.csv": b"id,content\n1,None\n2,NA\n3,\n4,007\n"},
        "own/code": {"code.py": b"raise SystemExit('this has run')"},
    }

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        found = re.fullmatch(r"(?:/api)?/datasets/(\w+/\w+)(?:/(revision|tree|resolve)/([^/]+)/?(.*))?", path)
        if found and found[1].startswith("status/"):
            return self._answer(int(found[1].removeprefix("status/")))
        files = self.sets.get(found[1]) if found else None
        if found is None or files is None or found[3] not in {None, COMMIT}:
            return self._answer(404)
        if found[2] == "resolve":
            return self._file(files.get(found[4]))
        if found[2] == "tree":
            entries = list(_entries(files, f"{found[4]}/" if found[4] else ""))
            return self._answer(200 if entries else 404, json.dumps(entries).encode())
        about = {"id": found[1], "sha": COMMIT, "siblings": [{"rfilename": name} for name in files], "tags": []}
        return self._answer(200, json.dumps(about).encode())

    def do_HEAD(self) -> None:
        self.do_GET()

    def _file(self, content: bytes | None) -> None:
        if content is None:
            return self._answer(404)
        head = {"X-Repo-Commit": COMMIT, "ETag": f'"{_digest(content)}"', "Accept-Ranges": "bytes"}
        part = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if part is None:
            return self._answer(200, content, head)
        begin, end = int(part[1]), min(int(part[2] or len(content)), len(content) - 1)
        head["Content-Range"] = f"bytes {begin}-{end}/{len(content)}"
        return self._answer(206, content[begin : end + 1], head)

    def _answer(self, status: int, content: bytes = b"{}", head: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **(head or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


def _entries(files: dict[str, bytes], folder: str) -> Iterator[dict[str, Any]]:
    below = {name.removeprefix(folder): content for name, content in files.items() if name.startswith(folder)}
    for name in sorted({name.partition("/")[0] for name in below if "/" in name}):
        yield {"type": "directory", "path": f"{folder}{name}", "oid": "0", "size": 0}
    for name, content in below.items():
        if "/" not in name:
            yield {"type": "file", "path": f"{folder}{name}", "oid": _digest(content), "size": len(content)}


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:40]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[str]:
    """The address of a hub on this machine; the card of its dataset `own/local` names a file of this machine."""
    Hub.sets["own/local"] = {"README.md": TABLE.replace("train.csv", str(tmp_path / "own.csv")).encode()}
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()
