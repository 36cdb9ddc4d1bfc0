"""HTTP servers that misbehave, for tests: real sockets, answers by a script."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Call:
    method: str
    path: str
    key: str
    body: dict[str, Any]


@dataclass
class Reply:
    """A server's response; `cut` promises more than it sends and breaks off, `hang` sends nothing for so many seconds."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False
    hang: float = 0.0


@dataclass
class Served:
    """A server that runs: its address, and the posts that came to it."""

    url: str
    posts: list[Call]


def chat(text: str, finish: str | None = "stop") -> Reply:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return Reply(body={"choices": [choice], "usage": {"prompt_tokens": 5, "completion_tokens": 7}})


@contextmanager
def serving(script: Callable[[Call, int], Reply], models: Reply | None = None) -> Iterator[Served]:
    """Serve: `script` answers a post by what it is and how many came before it; the model is called "m"."""
    posts: list[Call] = []
    lock, ended = threading.Lock(), threading.Event()
    listed = models or Reply(body={"object": "list", "data": [{"id": "m", "owned_by": "test"}]})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send(listed)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            call = Call("POST", self.path, self.headers.get("Authorization", ""), body)
            with lock:
                number = len(posts)
                posts.append(call)
            self._send(script(call, number))

        def _send(self, reply: Reply) -> None:
            if reply.hang:
                ended.wait(reply.hang)
                self.close_connection = True
                return
            content = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
            self.send_response(reply.status)
            for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(content) + (100 if reply.cut else 0)))
            self.end_headers()
            with suppress(ConnectionError):  # of a client that was killed
                self.wfile.write(content)
            self.close_connection = self.close_connection or reply.cut

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield Served(f"http://127.0.0.1:{server.server_address[1]}/v1", posts)
    finally:
        ended.set()
        server.shutdown()
        server.server_close()
        thread.join()
