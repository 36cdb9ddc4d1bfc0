"""Checks of every request before it reaches an endpoint: Host, Origin, key, and size of the body.

A request ends when its client leaves.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Sequence

from prometheus_client import Counter
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kdtool_serve.errors import RequestError, respond_with

_READ_TO_REFUSE = 32
"""A body that is larger than the limit times this factor ends the connection at once."""


class Guard:
    """Middleware around the application; see `create_app`. It counts responses by `paths`; `open_paths` need no key."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        key: str,
        hosts: Sequence[str],
        origins: Sequence[str],
        body: int,
        count: Counter,
        paths: Sequence[str],
        open_paths: Sequence[str],
    ) -> None:
        self._app = app
        self._key = key.encode()
        self._hosts = {host.lower() for host in hosts}
        self._origins = {origin.rstrip("/") for origin in origins}
        self._body = body
        self._count = count
        self._paths = frozenset(paths)
        self._open_paths = frozenset(open_paths)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        origin = headers.get("origin", "")

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in self._paths else "other"
                self._count.labels(path, message["status"]).inc()
                _add_headers(MutableHeaders(scope=message), origin if origin in self._origins else "")
            await send(message)

        try:
            self._check(scope, headers, origin)
            if scope["method"] == "OPTIONS" and origin in self._origins:
                await _preflight(headers)(scope, receive, answer)
                return
            self._check_key(scope, headers)
            body = await self._read(receive)
        except RequestError as error:
            left = {"Connection": "close"}  # the rest of the body is not read
            await respond_with(error, scope["path"], left)(scope, receive, answer)
        except ConnectionError:
            return
        else:
            await self._run(scope, body, receive, answer)

    def _check(self, scope: Scope, headers: Headers, origin: str) -> None:
        host = headers.get("host", "").lower()
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if "*" not in self._hosts and name not in self._hosts:
            raise RequestError(
                f"the header Host names {name[:100]!r}, but this server only answers to {', '.join(sorted(self._hosts))}",
                status=421,
                code="wrong_host",
            )
        if origin and origin not in self._origins and origin != f"{scope['scheme']}://{host}":
            raise RequestError(
                f"web pages of {origin[:100]} may not use this server; start it with --allow-origin {origin[:100]}",
                status=403,
                code="wrong_origin",
            )
        # images and scripts of foreign pages name no origin; a link to the page itself is harmless
        foreign = headers.get("sec-fetch-site") == "cross-site" and not origin and scope["path"] != "/"
        if foreign and not self._key:
            raise RequestError(
                "web pages of other sites may not use this server; use its own page, or start it with --allow-origin",
                status=403,
                code="wrong_origin",
            )
        if not scope["http_version"].startswith("1."):
            raise RequestError(f"HTTP/{scope['http_version']} is not supported; use HTTP/1.1", status=505)
        if "content-length" in headers and "transfer-encoding" in headers:
            raise RequestError("the request has Content-Length and Transfer-Encoding; send one of these headers")

    def _check_key(self, scope: Scope, headers: Headers) -> None:
        if not self._key or scope["path"] in self._open_paths:
            return
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = bearer if bearer and scheme.lower() == "bearer" else headers.get("x-api-key", "")
        if not hmac.compare_digest(given.encode("latin-1"), self._key):  # the bytes that were sent
            raise RequestError(
                "the key is missing or wrong; send it as `Authorization: Bearer KEY`",
                status=401,
                code="invalid_api_key",
            )

    async def _read(self, receive: Receive) -> bytes:
        """Return the body. Raises `ConnectionError` if the client leaves.

        A body that is too large is read to its end, within reason, so that the client reads the answer.
        """
        body, count, continues = bytearray(), 0, True
        while continues and count <= _READ_TO_REFUSE * self._body:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ConnectionError
            count += len(message.get("body", b""))
            continues = message.get("more_body", False)
            if count <= self._body:
                body += message.get("body", b"")
        if count > self._body:
            raise RequestError(
                f"the request has more than {self._body:,} bytes; send less, or start the server with a larger "
                "--body-limit",
                status=413,
                code="too_large",
            )
        return bytes(body)

    async def _run(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Run the application until it is done or the client leaves."""
        left = asyncio.ensure_future(_wait_for_end(receive))
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def replay() -> Message:
            if messages:
                return messages.pop()
            await asyncio.shield(left)
            return {"type": "http.disconnect"}

        work = asyncio.ensure_future(self._app(scope, replay, send))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in (work, left):
                if not task.done():
                    task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await work


async def _wait_for_end(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _preflight(asked: Headers) -> Response:
    """Permit the headers that a page on the list asks for; OpenAI's client sends many."""
    return Response(
        status_code=204,
        headers={
            "Access-Control-Allow-Methods": "GET, POST",
            "Access-Control-Allow-Headers": asked.get("access-control-request-headers", ""),
        },
    )


def _add_headers(headers: MutableHeaders, origin: str) -> None:
    headers["X-Content-Type-Options"] = "nosniff"
    headers["Referrer-Policy"] = "no-referrer"
    headers["Cross-Origin-Resource-Policy"] = "same-origin"
    headers.setdefault("Cache-Control", "no-store")
    if origin:
        headers["Access-Control-Allow-Origin"] = origin
        headers["Access-Control-Expose-Headers"] = "Retry-After"
        headers["Vary"] = "Origin"
