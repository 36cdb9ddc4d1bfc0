"""Generate the answers to one HTTP request: as one JSON body, or piece by piece as server-sent events or JSON lines."""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import kdtool
from kdtool_measuring import fit_prompt
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from kdtool_serve.engine import Answer, Engine
from kdtool_serve.errors import TOO_LONG, RequestError, as_request_error
from kdtool_serve.tasks import HEADER, does_continue

_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


@dataclass
class Generated:
    """An answer with the text generated so far."""

    number: int
    answer: Answer
    engine: Engine
    text: str = ""
    finish: str = ""
    reason: str = ""
    logprobs: list[kdtool.TokenLogprob] = field(default_factory=list)

    def add(self, piece: kdtool.TextPiece) -> None:
        """Append a piece.

        Raises:
            RequestError: the model refuses the request.
        """
        if piece.finish == "refused":
            raise _refusal(piece, self.engine.runtime)
        self.text += piece.text
        self.logprobs += piece.logprobs
        self.finish, self.reason = piece.finish or self.finish, piece.reason

    def timings(self) -> dict[str, float]:
        """Return times in milliseconds and the speed, as llama.cpp names them; `first_token_ms` includes the queue."""
        answer = self.answer
        first = answer.first or answer.last or answer.started
        prompt, seconds = first - answer.started, max(0.0, answer.last - first)
        later_tokens = answer.tokens_out - answer.tokens_at_first
        return {
            "prompt_n": answer.tokens_in,
            "prompt_ms": round(1000 * prompt, 2),
            "prompt_per_second": round(answer.tokens_in / prompt, 2) if prompt > 0 else 0.0,
            "first_token_ms": round(1000 * (first - answer.created), 2),
            "predicted_n": answer.tokens_out,
            "predicted_ms": round(1000 * seconds, 2),
            "predicted_per_second": round(later_tokens / seconds, 2) if seconds > 0 else 0.0,
        }


_Pieces = AsyncIterator[tuple[Generated, kdtool.TextPiece]]


class Form(ABC):
    """The shape of an endpoint's responses."""

    done: str = ""
    """The last event's data; "" if there is none."""
    natural_end: bool = False
    """True if answers end at their natural end."""
    lists_tokens: bool = False
    """True if responses list the tokens of answers."""
    json_lines: bool = False
    """True if events are JSON lines as Ollama's, False if they are server-sent events."""

    @abstractmethod
    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the body of finished answers."""

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield events before the first piece of an answer."""
        yield from ()

    @abstractmethod
    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield events of a piece, which `generated` already contains."""

    @abstractmethod
    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield events after all answers."""

    def find_end(self, text: str) -> int | None:
        """Return how many characters of an answer are kept if it ends after `text`; None if it continues.

        It is called in the thread that generates the answer.
        """


async def respond(
    engine: Engine, requests: Sequence[kdtool.Request], form: Form, *, stream: bool, seconds: float
) -> Response:
    """Generate the answers to `requests` in at most `seconds`.

    An error before the first piece is an HTTP error, a later one the last event. The answers are cancelled when the
    response is.
    """
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    end = ExitStack()
    try:
        answers = await _start(engine, requests, form, deadline, seconds, whole=not stream)
        end.callback(engine.cancel, answers)
        end.callback(loop.call_at(deadline, _expire, answers, seconds).cancel)
        all_generated = [Generated(number, answer, engine) for number, answer in enumerate(answers)]
        pieces = _merge(all_generated)
        if not stream:
            async for generated, piece in pieces:
                generated.add(piece)
            end.close()
            return JSONResponse(form.whole(all_generated), headers=_headers(answers))
        first = await anext(pieces)
        first[0].add(first[1])
    except BaseException as error:
        end.close()
        if isinstance(error, Exception):
            raise as_request_error(error) from error
        raise
    return _Events(all_generated, first, pieces, form, end, _headers(answers))


async def respond_within_context(
    engine: Engine, candidates: Iterable[tuple[kdtool.Request, Form]], *, room: int, stream: bool, seconds: float
) -> Response:
    """Generate the answer to the first of ever shorter requests that fits into the model's context, each with its form.

    It leaves `room` for the answer, or half of the context.
    """
    runtime = await engine.load()
    shorter = iter(candidates)
    request, form = next(shorter)
    while True:
        following = next(shorter, None)
        try:
            if following is None or await asyncio.to_thread(_fits, request, runtime, room):
                return await respond(engine, [request], form, stream=stream, seconds=seconds)
        except RequestError as error:
            if error.code != TOO_LONG or following is None:
                raise
        request, form = following


def _fits(request: kdtool.Request, runtime: kdtool.Runtime, room: int) -> bool:
    text = "\n".join([*(content for _, content in request.turns), request.prompt])
    return fit_prompt(text, runtime, room, "" if does_continue(runtime) else request.suffix or "") == text


class _Events(StreamingResponse):
    """Answers as a stream of events; they are cancelled when the response ends, however it ends."""

    def __init__(
        self,
        all_generated: Sequence[Generated],
        first: tuple[Generated, kdtool.TextPiece],
        pieces: _Pieces,
        form: Form,
        end: ExitStack,
        headers: Mapping[str, str],
    ) -> None:
        media_type = "application/x-ndjson" if form.json_lines else "text/event-stream"
        super().__init__(self._lines(all_generated, first, pieces, form), media_type=media_type, headers=headers)
        self._end = end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._end:
            await super().__call__(scope, receive, send)

    async def _lines(
        self, all_generated: Sequence[Generated], first: tuple[Generated, kdtool.TextPiece], pieces: _Pieces, form: Form
    ) -> AsyncIterator[bytes]:
        write = _line if form.json_lines else _event
        try:
            for generated in all_generated:
                for event in form.begin(generated):
                    yield write(event)
            for event in form.piece(*first):
                yield write(event)
            async for generated, piece in pieces:
                generated.add(piece)
                for event in form.piece(generated, piece):
                    yield write(event)
            for event in form.end(all_generated):
                yield write(event)
        except Exception as error:
            yield write(as_request_error(error).body(ollama=form.json_lines))
        if form.done:
            yield f"data: {form.done}\n\n".encode()


async def _merge(all_generated: Sequence[Generated]) -> _Pieces:
    """Yield the pieces of all answers as they come."""
    if len(all_generated) == 1:
        async for piece in all_generated[0].answer:
            yield all_generated[0], piece
        return
    queue: asyncio.Queue[tuple[Generated, kdtool.TextPiece] | BaseException | None] = asyncio.Queue()

    async def drain(generated: Generated) -> None:
        try:
            async for piece in generated.answer:
                queue.put_nowait((generated, piece))
            queue.put_nowait(None)
        except Exception as error:
            queue.put_nowait(error)

    tasks = [asyncio.create_task(drain(generated)) for generated in all_generated]
    left = len(tasks)
    try:
        while left:
            item = await queue.get()
            if isinstance(item, BaseException):
                raise item
            if item is None:
                left -= 1
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()


async def _start(
    engine: Engine, requests: Sequence[kdtool.Request], form: Form, deadline: float, seconds: float, *, whole: bool
) -> list[Answer]:
    try:
        async with asyncio.timeout_at(deadline):
            return await engine.start(
                requests, form.find_end, whole=whole, natural_end=form.natural_end, exact=form.lists_tokens
            )
    except TimeoutError:
        raise _lateness(seconds) from None


def _headers(answers: Sequence[Answer]) -> Mapping[str, str]:
    return HEADER if answers[0].task.continued else {}


def _expire(answers: Sequence[Answer], seconds: float) -> None:
    for answer in answers:
        answer.put(_lateness(seconds))


def _lateness(seconds: float) -> RequestError:
    return RequestError(
        f"the answer was not finished within {seconds:g} s; ask for fewer tokens, or start the server with a longer "
        "--timeout",
        status=504,
        code="timeout",
    )


def _refusal(piece: kdtool.TextPiece, runtime: kdtool.Runtime | None) -> RequestError:
    if piece.reason and "context" not in piece.reason:
        return RequestError(piece.reason, code="refused", param="prompt")
    context = runtime.model.facts.context if runtime and runtime.model else getattr(runtime, "context", 0)
    numbers = f", {piece.tokens_in} tokens," if piece.tokens_in else ""
    room = f" of {context} tokens" if context else ""
    message = piece.reason or f"the prompt{numbers} leaves no room in the model's context{room}; send a shorter one"
    return RequestError(f"prompt: {message}", code=TOO_LONG, param="prompt")


def _line(data: dict[str, Any]) -> bytes:
    return f"{_ENCODER.encode(data)}\n".encode()


def _event(data: dict[str, Any]) -> bytes:
    return f"data: {_ENCODER.encode(data)}\n\n".encode()
