"""A stand-in for W&B's server on this machine: it keeps what W&B's client uploads, and answers what a resumed run asks."""

from __future__ import annotations

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

__all__ = ["Uploaded", "serve"]


@dataclass
class Uploaded:
    """A run as the server has it: a point of the history for each number `_step`, the last one that was sent."""

    settings: dict[str, Any] = field(default_factory=dict)
    points: dict[int, dict[str, Any]] = field(default_factory=dict)
    lines: int = 0
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def history(self) -> list[dict[str, Any]]:
        """The points in order."""
        return [self.points[step] for step in sorted(self.points)]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.runs: dict[str, Uploaded] = {}
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Say nothing of clients that hang up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_PUT(self) -> None:
        self._body()
        self._answer({})

    def do_POST(self) -> None:
        content = json.loads(self._body())
        with self.server.lock:
            self._answer(self._graphql(content) if self.path == "/graphql" else self._stream(content))

    def _graphql(self, asked: dict[str, Any]) -> Any:
        name, given = asked.get("operationName"), asked.get("variables") or {}
        own = {"UpsertBucket": self._upsert, "RunResumeStatus": self._resume, "CreateRunFiles": self._create_files}
        answer = own.get(str(name))
        return {"data": answer(given) if answer else {"viewer": {"id": "v", "entity": "team"}, "serverInfo": None}}

    def _upsert(self, given: dict[str, Any]) -> Any:
        run = self.server.runs.setdefault(given["name"], Uploaded())
        run.settings.update({key: value for key, value in given.items() if value is not None})
        return {"upsertBucket": {"bucket": self._bucket(given["name"]), "inserted": not run.lines}}

    def _resume(self, given: dict[str, Any]) -> Any:
        known = given["name"] in self.server.runs
        bucket = self._bucket(given["name"]) if known else None
        return {"model": {"id": "p", "name": "kdtool", "entity": {"id": "e", "name": "team"}, "bucket": bucket}}

    def _bucket(self, name: str) -> dict[str, Any]:
        run = self.server.runs[name]
        tail = json.dumps([json.dumps(line) for line in run.history[-1:]])
        counts = {"historyLineCount": run.lines, "eventsLineCount": 0, "logLineCount": 0}
        texts = {"historyTail": tail, "eventsTail": "[]", "config": "{}", "summaryMetrics": json.dumps(run.summary)}
        project = {"id": "p", "name": "kdtool", "entity": {"id": "e", "name": "team"}}
        about = {"id": name, "name": name, "displayName": name, "tags": [], "wandbConfig": '{"t": {}}'}
        return {**about, **counts, **texts, "project": project, "sweepName": None, "description": None}

    def _create_files(self, given: dict[str, Any]) -> Any:
        files = [{"name": name, "uploadUrl": f"{self.server.url}/file"} for name in given["files"]]
        return {"createRunFiles": {"runID": given["run"], "uploadHeaders": [], "files": files}}

    def _stream(self, sent: dict[str, Any]) -> Any:
        run = self.server.runs.setdefault(self.path.split("/")[4], Uploaded())
        for name, chunk in (sent.get("files") or {}).items():
            lines = [json.loads(line) for line in chunk["content"]]
            if name == "wandb-history.jsonl":
                run.points.update({line["_step"]: line for line in lines})
                run.lines = max(run.lines, chunk["offset"] + len(lines))
            elif name == "wandb-summary.json":
                run.summary = lines[-1]
        return {"exitcode": None, "limits": {}}

    def _body(self) -> bytes:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(content) if self.headers.get("Content-Encoding") == "gzip" else content

    def _answer(self, answer: Any) -> None:
        content = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def serve() -> Iterator[tuple[str, dict[str, Uploaded]]]:
    """Serve on a free port; yield the address, and the runs by id, filled as they are uploaded."""
    server = _Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server.url, server.runs
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
