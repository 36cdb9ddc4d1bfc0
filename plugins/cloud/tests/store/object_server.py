"""An S3 server on this machine, and a proxy in front of it that delays, refuses and cuts requests."""

from __future__ import annotations

import argparse
import http.client
import random
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

__all__ = ["FaultyProxy", "s3_server"]

KEYS = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test", "AWS_DEFAULT_REGION": "us-east-1"}
"""Environment variables of clients: the server accepts any key."""
Headers = list[tuple[str, str]]
_SLOW_DOWN = b"<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"


@contextmanager
def s3_server() -> Iterator[int]:
    """Run moto's server, with one bucket called `bucket`, and yield its port."""
    import logging

    import boto3
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    try:
        client = boto3.client(
            "s3",
            endpoint_url=f"http://127.0.0.1:{port}",
            aws_access_key_id="test",
            aws_secret_access_key="test",
            region_name="us-east-1",
        )
        client.create_bucket(Bucket="bucket")
        yield port
    finally:
        server.stop()


class FaultyProxy:
    """A proxy on 127.0.0.1 in front of a server: each request fails with probability `faults`.

    A fault is one of: an answer 500 or 503 SlowDown, a delay, a connection that is cut before the request reaches the
    server, one that is cut after it did, and an answer that is cut in the middle. Writes go through one at a time,
    since moto does not make conditional ones atomic between its threads, as S3 does. `sent` counts the bytes of bodies.
    """

    def __init__(self, upstream: int, faults: float = 0.0, seed: int = 0) -> None:
        self.faults = faults
        self.sent = 0
        self.received = 0
        self.requests = 0
        self.failed = 0
        self._random = random.Random(seed)
        self._one_write = threading.Lock()
        handler = type("Handler", (_Handler,), {"proxy": self, "upstream": upstream})
        self._server = _Server(("127.0.0.1", 0), handler)
        self.port = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Stop it."""
        self._server.shutdown()
        self._server.server_close()

    def next_fault(self) -> str:
        """Return the fault of the next request, mostly none."""
        self.requests += 1
        if self._random.random() >= self.faults:
            return ""
        self.failed += 1
        return self._random.choice(["500", "503", "delay", "cut before", "cut after", "cut answer"])

    def forward(self, upstream: int, handler: BaseHTTPRequestHandler, body: bytes) -> tuple[int, Headers, bytes]:
        """Send a request to the server, and return the answer's status, headers and body."""
        with self._one_write if handler.command in {"PUT", "POST"} else threading.Lock():
            connection = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
            headers = {name: value for name, value in handler.headers.items() if name.lower() != "expect"}
            connection.request(handler.command, handler.path, body or None, headers)
            answer = connection.getresponse()
            content = answer.read()
            connection.close()
        return answer.status, answer.getheaders(), content


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, request: object, client_address: object) -> None:
        """Stay silent about clients that were killed."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: FaultyProxy
    upstream: int

    def _handle(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        self.proxy.sent += len(body)
        if len(body) < length:  # the client was killed
            self._cut()
            return
        fault = self.proxy.next_fault()
        if fault == "delay":
            time.sleep(random.uniform(0.05, 0.5))
        if fault in {"500", "503"}:
            self._answer(int(fault), [], _SLOW_DOWN)
            return
        if fault == "cut before":
            self._cut()
            return
        status, headers, content = self.proxy.forward(self.upstream, self, body)
        self.proxy.received += len(content)
        if fault == "cut after":
            self._cut()
        elif fault == "cut answer" and content:
            self._answer(status, headers, content, cut=len(content) // 2)
        else:
            self._answer(status, headers, content)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _handle  # noqa: N815 - names of the base class

    def _answer(self, status: int, headers: Headers, content: bytes, cut: int | None = None) -> None:
        self.send_response(status)
        length = next((value for name, value in headers if name.lower() == "content-length"), str(len(content)))
        for name, value in headers:
            if name.lower() not in {"content-length", "transfer-encoding", "connection", "date", "server"}:
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        self.wfile.write(content[:cut])
        if cut is not None:
            self._cut()

    def _cut(self) -> None:
        self.close_connection = True
        self.wfile.flush()
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--faults", type=float, default=0.0)
    with s3_server() as port:
        proxy = FaultyProxy(port, parser.parse_args().faults)
        print(proxy.port, flush=True)
        sys.stdin.read()  # until the parent process ends
        print(f"{proxy.requests} requests, {proxy.failed} faults, {proxy.sent} bytes sent, {proxy.received} received")
