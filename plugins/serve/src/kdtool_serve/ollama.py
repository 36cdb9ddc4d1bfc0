"""Ollama's protocol below `/api`, for clients that know no other: its routes, and models as it describes them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import kdtool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kdtool_serve.engine import Engine
from kdtool_serve.errors import RequestError
from kdtool_serve.ollama_messages import Chat, ChatForm, Generate, GenerateForm, Show, empty_answer
from kdtool_serve.pool import Pool, weights
from kdtool_serve.requests import parse, shorten
from kdtool_serve.responses import Form, respond_within_context
from kdtool_serve.tasks import does_continue

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
        engine = self._pool.find(parse(Show, await request.body()).model)
        return JSONResponse(describe_model(engine, self._pool.subjects[engine.name]))

    async def generate(self, request: Request) -> Response:
        """Continue a prompt, fill a gap, or answer the prompt as a user's message if the model has a chat template."""
        began = time.perf_counter()
        given = parse(Generate, await request.body())
        engine = self._pool.find(given.model)
        _refuse_unsupported(given)
        if not given.prompt and not given.suffix:
            return await self._load(engine, given, GenerateForm)
        form = GenerateForm(given.model, began, logprobs=given.logprobs)
        as_message = not given.raw and given.suffix is None and "converse" in (await engine.load()).abilities
        engine = engine if as_message else self._pool.draw(engine)
        if as_message:
            system = (("system", given.system),) if given.system else ()
            candidates = _conversations(given, (*system, ("user", given.prompt)), "")
        else:
            before = f"{given.system}\n\n{given.prompt}" if given.system else given.prompt
            texts = shorten(before, given.suffix or "", reads_after=not does_continue(await engine.load()))
            candidates = (
                given.options.request(before, suffix=after or None, logprobs=given.likeliest) for before, after in texts
            )
        return await self._respond(engine, candidates, given, form)

    async def chat(self, request: Request) -> Response:
        """Answer the last message of a conversation, or continue it if it is the assistant's."""
        began = time.perf_counter()
        given = parse(Chat, await request.body())
        engine = self._pool.find(given.model)
        _refuse_unsupported(given)
        if not given.messages:
            return await self._load(engine, given, ChatForm)
        form = ChatForm(given.model, began, logprobs=given.logprobs)
        turns = [(message.role, message.content) for message in given.messages]
        begun = turns.pop()[1] if turns[-1][0] == "assistant" else ""
        if not turns:
            raise RequestError("messages: no turn is left to answer; begin with the user's", param="messages")
        return await self._respond(engine, _conversations(given, turns, begun), given, form)

    async def _respond(
        self, engine: Engine, candidates: Iterator[kdtool.Request], given: Generate | Chat, form: Form
    ) -> Response:
        room, answers = given.options.room, ((each, form) for each in candidates)
        return await respond_within_context(engine, answers, room=room, stream=given.stream, seconds=self._seconds)

    async def _load(self, engine: Engine, given: Generate | Chat, form: type[GenerateForm | ChatForm]) -> Response:
        """Load the model, or close it if nobody uses it."""
        if not given.is_unload:
            await engine.load()
        elif not engine.admitted:
            engine.unload()
        return JSONResponse(empty_answer(form, given.model, "unload" if given.is_unload else "load"))


def _conversations(given: Generate | Chat, turns: _Turns, begun: str) -> Iterator[kdtool.Request]:
    """Yield the request, then without the oldest turns: the system's and the last one stay."""
    while True:
        yield given.options.request(begun, turns=tuple(turns), logprobs=given.likeliest)
        oldest = next((number for number, turn in enumerate(turns[:-1]) if turn[0] != "system"), None)
        if oldest is None:
            return
        turns = [*turns[:oldest], *turns[oldest + 1 :]]


def _refuse_unsupported(given: Generate | Chat) -> None:
    """Refuse values that change the answer, but are not supported."""
    for error, value in given.find_refusals().items():
        if value:
            raise RequestError(error)


_NEVER = "9999-12-31T23:59:59Z"
"""Models stay loaded."""
_TEMPLATE = "{{ if .Suffix }}{{ .Prompt }}{{ .Suffix }}{{ else }}{{ .System }}{{ .Prompt }}{{ end }}{{ .Response }}"
"""The server renders the model's own template. This text only names the fields that requests may have: Continue sends a
suffix if the template mentions it."""


def with_tag(name: str) -> str:
    """Return a model's name as Ollama lists it."""
    return name if ":" in name else f"{name}:latest"


def list_model(engine: Engine, subject: kdtool.Subject) -> dict[str, Any]:
    """Return an entry of `/api/tags`."""
    return {
        **_identity(engine, subject),
        "modified_at": _read_date(subject.path),
        "size": weights(subject.path),
        "details": _details(engine, subject),
        "capabilities": _capabilities(engine),
    }


def describe_process(engine: Engine, subject: kdtool.Subject, runtime: kdtool.Runtime) -> dict[str, Any]:
    """Return an entry of `/api/ps`."""
    return {
        **_identity(engine, subject),
        "size": runtime.memory() or weights(subject.path),
        "details": _details(engine, subject),
        "expires_at": _NEVER,
        "size_vram": 0,
        "context_length": runtime.model.facts.context if runtime.model else 0,
    }


def describe_model(engine: Engine, subject: kdtool.Subject) -> dict[str, Any]:
    """Return the body of `/api/show`. Shapes are those of a loaded model."""
    return {
        "modelfile": f"# served by kdtool\nFROM {with_tag(engine.name)}\n",
        "parameters": "",
        "template": _TEMPLATE,
        "details": _details(engine, subject),
        "model_info": _shapes(engine),
        "capabilities": _capabilities(engine),
        "modified_at": _read_date(subject.path),
    }


def _identity(engine: Engine, subject: kdtool.Subject) -> dict[str, str]:
    """Return name and digest; the digest changes with the name, the size and the date of the files."""
    files = f"{engine.name} {weights(subject.path)} {_read_date(subject.path)}"
    digest = hashlib.sha256(files.encode()).hexdigest()
    return {"name": with_tag(engine.name), "model": with_tag(engine.name), "digest": digest}


def _details(engine: Engine, subject: kdtool.Subject) -> dict[str, Any]:
    model = engine.runtime.model if engine.runtime else None
    is_gguf = subject.path is not None and subject.path.suffix == ".gguf"
    family = _architecture(engine)
    return {
        "parent_model": "",
        "format": "gguf" if is_gguf else "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": f"{model.facts.parameters / 1e6:.4g}M" if model else "",
        "quantization_level": model.facts.dtype if model else "",
    }


def _capabilities(engine: Engine) -> list[str]:
    """Return what the model can do; all that continue text fill gaps, if only from one side."""
    abilities = engine.runtime.abilities if engine.runtime else {"continue"}
    return ["completion", "insert"] if {"continue", "infill"} & abilities else ["completion"]


def _shapes(engine: Engine) -> dict[str, Any]:
    model = engine.runtime.model if engine.runtime else None
    family = _architecture(engine)
    if model is None:
        return {"general.architecture": family}
    facts = model.facts
    return {
        "general.architecture": family,
        "general.parameter_count": facts.parameters,
        f"{family}.attention.head_count": facts.heads,
        f"{family}.attention.head_count_kv": facts.kv_heads,
        f"{family}.block_count": facts.layers,
        f"{family}.context_length": facts.context,
        f"{family}.embedding_length": facts.hidden,
        f"{family}.feed_forward_length": facts.feed_forward,
        f"{family}.vocab_size": facts.vocabulary,
    }


def _architecture(engine: Engine) -> str:
    model = engine.runtime.model if engine.runtime else None
    return getattr(getattr(model and model.model, "config", None), "model_type", None) or "unknown"


def _read_date(path: Path | None) -> str:
    seconds = path.stat().st_mtime if path is not None and path.exists() else 0
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
