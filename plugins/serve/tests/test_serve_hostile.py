"""Hostile and broken requests are refused and the server goes on serving; its page runs only its own scripts."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from kdtool_serve import app
from kdtool_serve.server import Connection
from running import Running, running
from scripted import ScriptedModels, StreamingRuntime


@pytest.fixture(autouse=True)
def _serves_afterwards(server: Running, student: StreamingRuntime) -> Iterator[None]:
    text = student.text
    yield
    student.text, student.seconds = text, 0.0
    assert server.post("/v1/completions", prompt="x").json()["choices"][0]["text"] == "return width * height\n"


def _send(server: Running, content: bytes) -> bytes:
    """Send bytes and return everything that comes back until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(content)
        received = b""
        while part := connection.recv(65536):
            received += part
        return received


def _completion(**settings: object) -> bytes:
    """Return the bytes of a request."""
    body = json.dumps({"prompt": "x", **settings}).encode()
    return b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body


def test_a_prompt_of_10_mb_is_refused_with_the_limit(server: Running) -> None:
    refused = server.post("/v1/completions", prompt="x" * 10_000_000)
    assert refused.status_code == 413
    assert "more than 1,000,000 bytes" in refused.json()["error"]["message"]


def test_a_body_without_end_is_cut_off(server: Running) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    head = b"POST /infill HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head)
        with pytest.raises(ConnectionError):  # noqa: PT012 - the connection may break at any chunk
            for _ in range(2000):  # 130 MB
                connection.sendall(chunk)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{broken", "the body is not valid JSON"),
        (b"\xff\xfe{}", "the body is not valid JSON"),
        (b"[" * 100_000, "the body is not valid JSON"),
        (b"[]", "body: "),
        (b'{"prompt": "x", "n": 1e999}', "n: "),
        (b'{"prompt": "x", "temperature": NaN}', ""),
        (b'{"prompt": "\\ud800"}', ""),
        (b'{"prompt": "x", "max_tokens": "3"}', "max_tokens: "),
    ],
)
def test_broken_json_is_refused_in_one_sentence(server: Running, body: bytes, message: str) -> None:
    refused = httpx.post(f"{server.url}/v1/completions", content=body)
    assert refused.status_code == 400
    error = refused.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "evil.example:5000", "[::2]", ""])
def test_a_host_that_is_not_this_server_is_refused(server: Running, host: str) -> None:
    refused = server.get("/v1/models", Host=host)
    assert (refused.status_code, refused.json()["error"]["code"]) == (421, "wrong_host")
    for own in ("127.0.0.1", "localhost:80", "LOCALHOST", "[::1]:5000"):
        assert server.get("/v1/models", Host=own).status_code == 200


def test_pages_of_others_are_refused_unless_allowed(server: Running) -> None:
    refused = server.get("/v1/models", Origin="https://evil.example")
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_origin")
    assert server.get("/v1/models", Origin="null").status_code == 403
    own = server.get("/v1/models", Origin=server.url)
    assert own.status_code == 200
    assert "access-control-allow-origin" not in own.headers
    with running(ScriptedModels({"s": StreamingRuntime()}), origins=["https://mine.example"], key="k") as other:
        wanted = "authorization, content-type, x-stainless-os"  # of OpenAI's client
        asked = {
            "Origin": "https://mine.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": wanted,
        }
        allowed = httpx.options(f"{other.url}/infill", headers=asked)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (204, "https://mine.example")
        assert allowed.headers["access-control-allow-headers"] == wanted
        assert allowed.headers["access-control-expose-headers"] == "Retry-After"
        assert other.get("/v1/models", Origin="https://mine.example").status_code == 401


def test_what_foreign_pages_embed_is_refused_without_a_key(server: Running) -> None:
    foreign = {"Sec-Fetch-Site": "cross-site"}
    refused = server.get("/v1/models", **foreign)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_origin")
    assert server.get("/", **foreign).status_code == 200, "a link to the page"
    own = server.get("/v1/models", **{"Sec-Fetch-Site": "same-origin"})
    assert (own.status_code, own.headers["cross-origin-resource-policy"]) == (200, "same-origin")
    page = "https://mine.example"
    with running(ScriptedModels({"s": StreamingRuntime()}), origins=[page]) as other:
        assert other.get("/v1/models", Origin=page, **foreign).status_code == 200
    with running(ScriptedModels({"s": StreamingRuntime()}), key="k") as other:
        assert other.get("/v1/models", Authorization="Bearer k", **foreign).status_code == 200


SECOND = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
TWO_LENGTHS = b"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GET /health HTTP/0.9\r\nHost: localhost\r\n\r\n", 505),
        (TWO_LENGTHS + b"2\r\n{}\r\n0\r\n\r\n" + SECOND, 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n\r\n", None),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"a: b\r\n" * 100_000, None),
    ],
)
def test_what_is_not_http_1_ends_the_connection(server: Running, content: bytes, status: int | None) -> None:
    if status is None:
        with contextlib.suppress(ConnectionError):  # it may be closed while we send
            assert _send(server, content).startswith(b"HTTP/1.1 400 ")
    else:
        received = _send(server, content)
        assert received.startswith(b"HTTP/1.1 %d " % status)
        assert received.count(b"HTTP/1.1 ") == 1


_HEAD = b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: y\r\n\r\n"
_BODY_FIRST = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\n\r\n\n "


@pytest.mark.parametrize("before", [b"", SECOND, _BODY_FIRST], ids=["first", "pipelined", "behind a body"])
@pytest.mark.parametrize(
    ("written", "instead"),
    [
        (b"1.1\r\n", b"1.1\n"),
        (b"y\r\n", b"y\n"),
        (b"y\r\n\r\n", b"y\r\n\n"),
        (b"X: y", b"X:\r\n y"),
        (b"X: y", b"X: y\r\n\t"),
    ],
)
def test_a_header_that_others_read_otherwise_is_refused(
    server: Running, written: bytes, instead: bytes, before: bytes
) -> None:
    received = _send(server, before + _HEAD.replace(written, instead))
    assert received.count(b"HTTP/1.1 ") == 1 + bool(before)
    assert received.rpartition(b"HTTP/1.1 ")[2].startswith(b"400 ")


@pytest.mark.parametrize("end", [b"\n", b"X: y\n\n", b"X: y\r\n z\r\n\r\n"])
def test_so_is_a_trailer(server: Running, end: bytes) -> None:
    head = b"POST /nothing HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"
    assert b"HTTP/1.1 200" not in _send(server, head + end + SECOND)


@pytest.mark.parametrize("path", ["/v1/nothing", "/../etc/passwd", "/v1/models/", "/v1/models/%2e%2e", "/%00"])
def test_unknown_paths_are_refused(server: Running, path: str) -> None:
    assert server.get(path).json()["error"]["type"] == "invalid_request_error"
    assert server.get("/v1/completions").status_code == 405
    server.get(path, Origin="https://evil.example")
    assert f'path="{path}"' not in server.get("/metrics").text, "a label for each path would fill the memory"


def test_slow_requests_are_cut_off(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Connection, "request_seconds", 0.5)
    for begun in (
        b"",
        b"GET /v1/models HT",
        b"POST /infill HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\n{",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET /health HTTP/1.1\r\n",  # the second request is slow
    ):
        began = time.perf_counter()
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(begun)
            _trickle(connection)
        assert 0.3 < time.perf_counter() - began < 2


def _trickle(connection: socket.socket) -> None:
    connection.settimeout(0.1)
    for _ in range(60):
        try:
            if not connection.recv(1000):
                return
        except TimeoutError:
            pass
        except ConnectionError:
            return
        try:
            connection.sendall(b"x")
        except ConnectionError:
            return
    raise AssertionError("the connection is still open")


def test_a_client_that_reads_nothing_is_cut_off(
    server: Running, student: StreamingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "unread_seconds", 0.5)
    student.text = lambda _: ("w" * 100_000 + " ") * 150
    request = _completion(max_tokens=300, stream=True)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.sendall(request)
        _wait(lambda: bool(student.asked))
        _wait(lambda: not server.connections())
    _wait(lambda: not student.open)


def test_1000_silent_connections_do_not_keep_others_out(server: Running) -> None:
    silent: list[socket.socket] = []
    try:
        for number in range(1000):
            connection = socket.socket()
            connection.settimeout(5)
            connection.connect(("127.0.0.1", server.port))
            silent.append(connection)
            if number >= 300:  # half of the files a process may open are ours
                silent.pop(0).close()
        assert server.post("/v1/completions", prompt="x").status_code == 200
        _wait(lambda: server.connections() <= Connection.most)
    finally:
        for connection in silent:
            connection.close()


def test_when_all_connections_are_answered_a_further_one_is_turned_away(
    server: Running, student: StreamingRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "most", 1)
    student.text, student.seconds = (lambda _: "word " * 100), 0.05
    with httpx.stream("POST", f"{server.url}/v1/completions", json={"prompt": "x", "max_tokens": 100, "stream": True}):
        refused = server.get("/health")
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_connections")
    _wait(lambda: not student.open)


def _wait(is_done: Callable[[], bool]) -> None:
    for _ in range(200):
        if is_done():
            return
        time.sleep(0.02)
    raise AssertionError("it did not happen within 4 s")


def test_the_page_runs_nothing_but_its_own_elements(
    server: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app, "files", lambda _: tmp_path)
    (tmp_path / "page.html").write_text("<style>p {}</style><script>alert(1)</script>é", encoding="utf-8")
    page = server.get("/")
    assert page.text.endswith("é")
    policy = dict(part.split(" ", 1) for part in page.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    assert policy["script-src"] == "'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='"
    assert policy["style-src"].startswith("'sha256-")
    assert page.headers["x-content-type-options"] == "nosniff"
