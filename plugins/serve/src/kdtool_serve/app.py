"""The application: routes of the protocols, and everything around them."""

from __future__ import annotations

import hashlib
import re
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

import kdtool
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from kdtool_serve.devices import Devices
from kdtool_serve.errors import RequestError, as_request_error, respond_with
from kdtool_serve.forms import ChatForm, CompletionForm, InfillForm
from kdtool_serve.guard import Guard
from kdtool_serve.metrics import Metrics
from kdtool_serve.ollama import ollama_routes
from kdtool_serve.pool import Pool
from kdtool_serve.requests import LONGEST, USUAL, Chat, Completion, Infill, make_request, parse, shorten
from kdtool_serve.responses import respond, respond_within_context
from kdtool_serve.tasks import does_continue, read_ids


@dataclass(frozen=True)
class Limits:
    """Limits of a server: answers that wait per model, seconds per answer, bytes of a request's body, loaded models.

    `keep` is the greatest number of models in memory, beyond those in use; 0 for no limit.
    """

    queue: int = 32
    timeout: float = 300.0
    body: int = 1_000_000
    keep: int = 0


def create_app(
    models: kdtool.Models,
    *,
    offered: Sequence[str] | None = None,
    limits: Limits | None = None,
    key: str = "",
    hosts: Sequence[str] = ("127.0.0.1", "localhost", "[::1]"),
    origins: Sequence[str] = (),
    devices: Devices | None = None,
    shares: Mapping[str, float] | None = None,
) -> Starlette:
    """Return the application. Models load when they are first asked.

    Args:
        models: the models to offer, such as those of `kdtool.open_models`. The first is the default.
        offered: names of those that may be asked, the default first. None for all.
        limits: see `Limits`.
        key: the key that clients must send, "" if they need none.
        hosts: names of the server that clients may use in the header Host, ("*",) for any.
        origins: further web pages that may use the server, such as "https://example.org".
        devices: those of completions at a cursor; None for the defaults.
        shares: the share of the first model's completions that another model answers, by its name.
    """
    limits = limits or Limits()
    pool = Pool(models, offered, queue=limits.queue, keep=limits.keep, devices=devices, shares=shares)
    metrics = Metrics(pool)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await pool.stop()

    endpoints = _Endpoints(pool, metrics, limits.timeout)
    routes = [
        Route("/", _page),
        Route("/health", endpoints.health),
        Route("/metrics", endpoints.metrics),
        Route("/v1/models", endpoints.models),
        Route("/v1/models/{name:path}", endpoints.model),
        Route("/v1/completions", endpoints.complete, methods=["POST"]),
        Route("/v1/chat/completions", endpoints.chat, methods=["POST"]),
        Route("/infill", endpoints.infill, methods=["POST"]),
        *ollama_routes(pool, seconds=limits.timeout),
    ]
    guard = Middleware(
        Guard,
        key=key,
        hosts=hosts,
        origins=origins,
        body=limits.body,
        count=metrics.responses,
        paths=[route.path for route in routes],
        open_paths=("/", "/health"),
    )
    handlers: dict[Any, Callable[[Request, Exception], Awaitable[Response]]] = dict.fromkeys(
        (RequestError, HTTPException, Exception), _refuse
    )
    app = Starlette(routes=routes, middleware=[guard], lifespan=lifespan, exception_handlers=handlers)
    app.state.pool = pool
    return app


class _Endpoints:
    """The handlers of all routes that need the models."""

    def __init__(self, pool: Pool, metrics: Metrics, seconds: float) -> None:
        self._pool = pool
        self._metrics = metrics
        self._seconds = seconds

    async def health(self, request: Request) -> Response:
        """Answer while the server runs, with the models that failed and load again when they are next asked."""
        failed = [name for name, engine in self._pool.engines.items() if engine.failed]
        return JSONResponse({"status": "degraded", "failed": failed} if failed else {"status": "ok"})

    async def metrics(self, request: Request) -> Response:
        """Return the figures of `Metrics`."""
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def models(self, request: Request) -> Response:
        """List the models."""
        return JSONResponse({"object": "list", "data": [self._card(name) for name in self._pool.engines]})

    async def model(self, request: Request) -> Response:
        """Describe one model."""
        return JSONResponse(self._card(self._pool.find(request.path_params["name"]).name))

    async def complete(self, request: Request) -> Response:
        """Answer `/v1/completions`."""
        given = parse(Completion, await request.body())
        engine = self._pool.find(given.model)
        engine = engine if given.natural_end else self._pool.draw(engine)
        echo = given.echo and (given.logprobs is not None or not given.max_tokens)
        if not given.max_tokens and not echo:
            raise RequestError("max_tokens: 0 needs echo; ask for a token, or for echo", param="max_tokens")
        listed = [tuple(prompt) if isinstance(prompt, list) else () for prompt in given.prompt]
        if given.suffix is not None and (echo or any(listed)):
            raise RequestError("suffix: needs text, and no echo with logprobs; leave one out", param="suffix")
        tokenizer = (await engine.load()).tokenizer if any(listed) else None
        texts = [each if isinstance(each, str) else read_ids(engine.name, tokenizer, each) for each in given.prompt]
        further = {"suffix": given.suffix, "logprobs": given.ranked_by, "echo": echo}
        requests = [
            make_request(given, text, given.max_tokens, number, ids=ids, **further)
            for text, ids in zip(texts, listed, strict=True)
            for number in range(given.n)
        ]
        form = CompletionForm(engine.name, given, texts)
        return await respond(engine, requests, form, stream=given.stream, seconds=self._seconds)

    async def chat(self, request: Request) -> Response:
        """Answer `/v1/chat/completions`."""
        given = parse(Chat, await request.body())
        engine = self._pool.find(given.model)
        turns = [message.turn() for message in given.messages]
        begun = turns.pop()[1] if turns[-1][0] == "assistant" else ""
        if not turns:
            raise RequestError("messages: no turn is left to answer; begin with the user's", param="messages")
        limit = given.max_completion_tokens or (LONGEST if given.max_tokens < 0 else max(1, given.max_tokens))
        logprobs = given.top_logprobs if given.logprobs else None
        requests = [
            make_request(given, begun, limit, number, turns=tuple(turns), logprobs=logprobs)
            for number in range(given.n)
        ]
        form = ChatForm(engine.name, given)
        return await respond(engine, requests, form, stream=given.stream, seconds=self._seconds)

    async def infill(self, request: Request) -> Response:
        """Answer `/infill`."""
        given = parse(Infill, await request.body())
        engine = self._pool.draw(self._pool.find(given.model))
        limit = USUAL if given.n_predict < 0 else max(1, given.n_predict)  # 0 warms the prompt's cache
        reads_after = not does_continue(await engine.load())
        others = [extra.text for extra in given.input_extra]
        texts = shorten(given.input_prefix + given.prompt, given.input_suffix, others, reads_after=reads_after)
        answers = (
            (make_request(given, before, limit, suffix=after), InfillForm(engine.name, given, truncated=number > 0))
            for number, (before, after) in enumerate(texts)
        )
        try:
            return await respond_within_context(engine, answers, room=limit, stream=given.stream, seconds=self._seconds)
        except RequestError as error:
            raise (error.about("input_suffix") if error.param == "suffix" else error) from error

    def _card(self, name: str) -> dict[str, Any]:
        engine, subject = self._pool.engines[name], self._pool.subjects[name]
        runtime = engine.runtime
        shown = {
            "role": subject.role,
            "loaded": runtime is not None,
            "memory": runtime.memory() if runtime else None,
            "abilities": sorted(runtime.abilities) if runtime else None,
            "completions": asdict(self._metrics.acceptance.count(name)),
        }
        return {"id": name, "object": "model", "created": 0, "owned_by": "kdtool", "kdtool": shown}


async def _refuse(request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        known = RequestError(f"{request.url.path}: {error.detail}", status=error.status_code)
    else:
        known = as_request_error(error)
    return respond_with(known, request.url.path)


async def _page(_: Request) -> Response:
    text = files("kdtool_serve").joinpath("page.html").read_text(encoding="utf-8")
    sources = {tag: " ".join(_hashes(text, tag)) or "'none'" for tag in ("script", "style")}
    policy = {
        "default-src": "'none'",
        "script-src": sources["script"],
        "style-src": sources["style"],
        "connect-src": "'self'",
        "img-src": "data:",
        "font-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    written = "; ".join(" ".join(item) for item in policy.items())
    return HTMLResponse(text, headers={"Content-Security-Policy": written, "Cache-Control": "no-cache"})


def _hashes(text: str, tag: str) -> list[str]:
    """Return the sources that permit the page's own elements, and no others."""
    contents = re.findall(rf"<{tag}\b[^>]*>(.*?)</{tag}>", text, re.DOTALL)
    return [f"'sha256-{b64encode(hashlib.sha256(each.encode()).digest()).decode()}'" for each in contents]
