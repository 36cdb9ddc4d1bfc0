"""Answers of `/api/generate` and `/api/chat`: one JSON body, or JSON lines of which the last is `done`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import kdtool

from kdtool_command_serve.answering import Generated
from kdtool_command_serve.forms import describe_token

__all__ = ["ChatForm", "GenerateForm", "empty"]


class _OllamaForm:
    """An answer under the name that the client called the model by."""

    done = ""
    natural_end = False
    json_lines = True

    def __init__(self, model: str, began: float, *, logprobs: bool) -> None:
        self._model = model
        self._began = began
        self._logprobs = logprobs

    @staticmethod
    def shape(text: str) -> dict[str, Any]:
        """Return the field that holds a text."""
        raise NotImplementedError

    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the finished answer."""
        (generated,) = all_generated
        return self._last(generated, generated.text, generated.logprobs)

    def begin(self, generated: Generated) -> Iterator[dict[str, Any]]:
        """Yield nothing."""
        yield from ()

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a piece's text."""
        if piece.text or (piece.logprobs and self._logprobs):
            yield self._line(piece.text, piece.logprobs)

    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield the line with the figures."""
        yield self._last(all_generated[0], "", ())

    def find_end(self, text: str) -> int | None:
        """Return None: answers end by themselves."""
        return None

    def _line(self, text: str, logprobs: Sequence[kdtool.TokenLogprob], *, done: bool = False) -> dict[str, Any]:
        shown = {"logprobs": [_logprob(token) for token in logprobs]} if self._logprobs and logprobs else {}
        return {"model": self._model, "created_at": now(), **self.shape(text), "done": done, **shown}

    def _last(self, generated: Generated, text: str, logprobs: Sequence[kdtool.TokenLogprob]) -> dict[str, Any]:
        """Return a line with the reason of the end and durations in nanoseconds."""
        answer = generated.answer
        first = answer.first or answer.last or answer.started
        return {
            **self._line(text, logprobs, done=True),
            "done_reason": "length" if generated.finish == "length" else "stop",
            "total_duration": _nanoseconds(time.perf_counter() - self._began),
            "load_duration": _nanoseconds(answer.created - self._began),
            "prompt_eval_count": answer.tokens_in,
            "prompt_eval_duration": _nanoseconds(first - answer.started),
            "eval_count": answer.tokens_out,
            "eval_duration": _nanoseconds(answer.last - first),
        }


class GenerateForm(_OllamaForm):
    """`/api/generate`."""

    @staticmethod
    def shape(text: str) -> dict[str, Any]:
        """Return the response."""
        return {"response": text}


class ChatForm(_OllamaForm):
    """`/api/chat`."""

    @staticmethod
    def shape(text: str) -> dict[str, Any]:
        """Return the message."""
        return {"message": {"role": "assistant", "content": text}}


def empty(form: type[_OllamaForm], model: str, reason: str) -> dict[str, Any]:
    """Return the answer to a request without a prompt, which only loads or unloads a model."""
    return {"model": model, "created_at": now(), **form.shape(""), "done": True, "done_reason": reason}


def now() -> str:
    """Return the time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _nanoseconds(seconds: float) -> int:
    return max(0, round(1e9 * seconds))


def _logprob(token: kdtool.TokenLogprob) -> dict[str, Any]:
    top = [describe_token(*each) for each in token.top]
    return {**describe_token(token.token, token.logprob), **({"top_logprobs": top} if top else {})}
