"""The routes of Ollama's protocol."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import kdtool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kdtool_command_serve.answering import respond_within_context
from kdtool_command_serve.engine import Engine
from kdtool_command_serve.errors import RequestError
from kdtool_command_serve.infilling import shorten
from kdtool_command_serve.ollama.cards import describe_model, describe_process, list_model
from kdtool_command_serve.ollama.forms import ChatForm, GenerateForm, empty
from kdtool_command_serve.ollama.parameters import Chat, Generate, Show
from kdtool_command_serve.parameters import parse
from kdtool_command_serve.pool import Pool

__all__ = ["ollama_routes"]

_Turns = Sequence[tuple[str, str]]


def ollama_routes(pool: Pool, *, seconds: float) -> list[Route]:
    """Return the routes; an answer takes at most `seconds`."""
    endpoints = _Endpoints(pool, seconds)
    return [
        Route("/api/version", endpoints.version),
        Route("/api/tags", endpoints.tags),
        Route("/api/ps", endpoints.list_processes),
        Route("/api/show", endpoints.show, methods=["POST"]),
        Route("/api/generate", endpoints.generate, methods=["POST"]),
        Route("/api/chat", endpoints.chat, methods=["POST"]),
    ]


class _Endpoints:
    def __init__(self, pool: Pool, seconds: float) -> None:
        self._pool = pool
        self._seconds = seconds

    async def version(self, request: Request) -> Response:
        """Return kdtool's version."""
        return JSONResponse({"version": kdtool.__version__})

    async def tags(self, request: Request) -> Response:
        """List the models."""
        engines = self._pool.engines
        return JSONResponse({"models": [list_model(engines[name], self._pool.subjects[name]) for name in engines]})

    async def list_processes(self, request: Request) -> Response:
        """List the loaded models."""
        opened = ((engine, engine.runtime) for engine in self._pool.engines.values())
        cards = [describe_process(each, self._pool.subjects[each.name], runtime) for each, runtime in opened if runtime]
        return JSONResponse({"models": cards})

    async def show(self, request: Request) -> Response:
        """Describe one model."""
        engine = self._find(parse(Show, await request.body()).model)
        return JSONResponse(describe_model(engine, self._pool.subjects[engine.name]))

    async def generate(self, request: Request) -> Response:
        """Continue a prompt, fill a gap, or answer the prompt as a user's message if the model has a chat template."""
        began = time.perf_counter()
        given = parse(Generate, await request.body())
        engine = self._find(given.model)
        _check(given)
        if not given.prompt and not given.suffix:
            return await self._load(engine, given, GenerateForm)
        form = GenerateForm(given.model, began, logprobs=given.logprobs)
        runtime = await engine.load()
        as_message = not given.raw and not given.suffix and "converse" in runtime.abilities
        engine = engine if as_message else self._pool.draw(engine)
        if as_message:
            system = (("system", given.system),) if given.system else ()
            candidates = _conversations(given, (*system, ("user", given.prompt)), "")
        else:
            texts = shorten(f"{given.system}\n\n{given.prompt}" if given.system else given.prompt, given.suffix)
            candidates = (
                given.options.request(before, suffix=after or None, logprobs=given.likeliest) for before, after in texts
            )
        answers = ((each, form) for each in candidates)
        return await respond_within_context(engine, answers, stream=given.stream, seconds=self._seconds)

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation, or continue it if it is the assistant's."""
        began = time.perf_counter()
        given = parse(Chat, await request.body())
        engine = self._find(given.model)
        _check(given)
        if not given.messages:
            return await self._load(engine, given, ChatForm)
        form = ChatForm(given.model, began, logprobs=given.logprobs)
        turns = [(message.role, message.content) for message in given.messages]
        begun = turns.pop()[1] if turns[-1][0] == "assistant" else ""
        if not turns:
            raise RequestError("messages: no turn is left to answer; begin with the user's", param="messages")
        answers = ((each, form) for each in _conversations(given, turns, begun))
        return await respond_within_context(engine, answers, stream=given.stream, seconds=self._seconds)

    async def _load(self, engine: Engine, given: Generate | Chat, form: type[GenerateForm | ChatForm]) -> Response:
        """Load the model, or close it if nobody uses it."""
        if not given.is_unload:
            await engine.load()
        elif not engine.admitted:
            engine.unload()
        return JSONResponse(empty(form, given.model, "unload" if given.is_unload else "load"))

    def _find(self, name: str) -> Engine:
        known = self._pool.engines
        short = name.removesuffix(":latest")
        if name not in known and short not in known:
            raise RequestError(
                f"model '{name}' not found; this server has {', '.join(known)}", status=404, code="model_not_found"
            )
        return known[name if name in known else short]


def _conversations(given: Generate | Chat, turns: _Turns, begun: str) -> Iterator[kdtool.Request]:
    """Yield the request, then without the oldest turns: the system's and the last one stay."""
    while True:
        yield given.options.request(begun, turns=tuple(turns), logprobs=given.likeliest)
        oldest = next((number for number, turn in enumerate(turns[:-1]) if turn[0] != "system"), None)
        if oldest is None:
            return
        turns = [*turns[:oldest], *turns[oldest + 1 :]]


def _check(given: Generate | Chat) -> None:
    """Refuse values that change the answer, but are not supported."""
    for error, value in given.find_refusals().items():
        if value:
            raise RequestError(error)
