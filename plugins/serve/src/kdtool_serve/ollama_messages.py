"""Requests of Ollama's protocol, and the answers of `/api/generate` and `/api/chat`.

As in Ollama, unknown fields and options without effect here are ignored. An answer is one JSON body, or JSON lines of which
the last is `done`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import kdtool
import pydantic
from pydantic import AliasChoices, Field

from kdtool_serve.forms import describe_token
from kdtool_serve.requests import LONGEST, USUAL, Stop, make_request
from kdtool_serve.responses import Form, Generated


class _WithoutNull(pydantic.BaseModel):
    """Leaves out fields that are null, which stand for their defaults."""

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: value for name, value in given.items() if value is not None}


class Options(_WithoutNull):
    """`options` of a request, with Ollama's defaults. `temperature` None: 0 for a gap, else 0.8."""

    num_predict: int = -1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0)] = 40
    seed: int | None = None
    stop: Stop = []

    @pydantic.field_validator("stop", mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        stops = [given] if isinstance(given, str) else given
        return [stop for stop in stops if stop] if isinstance(stops, list) else stops

    @property
    def room(self) -> int:
        """Tokens of the context that a prompt leaves to the answer."""
        return self.num_predict if self.num_predict > 0 else USUAL

    def request(self, prompt: str, **further: Any) -> kdtool.Request:
        """Return the request to a model."""
        usual = 0.0 if further.get("suffix") is not None else 0.8
        temperature = usual if self.temperature is None else self.temperature
        limit = self.num_predict if self.num_predict > 0 else LONGEST
        return make_request(self, prompt, limit, temperature=temperature, **further)


class _Request(_WithoutNull):
    """Fields of both requests for text."""

    model_config = pydantic.ConfigDict(strict=True)

    model: str
    stream: bool = True
    options: Options = Options()
    keep_alive: float | str | None = None
    logprobs: bool = False
    top_logprobs: int = Field(0, ge=0, le=20)
    format: Any = None
    think: Any = None

    @property
    def is_unload(self) -> bool:
        """True if the request asks to close the model."""
        return self.keep_alive in {0, "0", "0s", "0m"}

    @property
    def likeliest(self) -> int | None:
        """Likeliest tokens to report per position; None for no log-probabilities."""
        return self.top_logprobs if self.logprobs else None

    def find_refusals(self) -> dict[str, Any]:
        """Return values that change an answer, but are not supported, by the error for each. Empty ones are harmless."""
        return {
            f'"{self.model}" does not support thinking': self.think,
            "format: structured answers are not supported; leave it out": self.format,
        }


class Generate(_Request):
    """`/api/generate`. `raw`: the prompt is continued as it is, without the model's chat template."""

    prompt: str = ""
    suffix: str | None = None
    system: str = ""
    template: str = ""
    raw: bool = False
    images: list[Any] = []
    context: list[int] = []

    def find_refusals(self) -> dict[str, Any]:
        """Return values that change an answer, but are not supported."""
        return {
            **super().find_refusals(),
            f"{self.model} does not support vision": self.images,
            "template: the model's own template is used; leave it out": self.template,
            "context: not supported; send the conversation to /api/chat": self.context,
        }


class Message(_WithoutNull):
    """A turn of a conversation."""

    model_config = pydantic.ConfigDict(strict=True)

    role: str
    content: str = ""
    images: list[Any] = []

    @pydantic.field_validator("role")
    @classmethod
    def _check(cls, role: str) -> str:
        if (lower := role.lower()) not in {"system", "user", "assistant"}:
            raise ValueError("must be system, user or assistant; tools are not supported")
        return lower


class Chat(_Request):
    """`/api/chat`."""

    messages: list[Message] = []
    tools: list[Any] = []

    def find_refusals(self) -> dict[str, Any]:
        """Return values that change an answer, but are not supported."""
        return {
            **super().find_refusals(),
            f"{self.model} does not support tools": self.tools,
            f"{self.model} does not support vision": [image for message in self.messages for image in message.images],
        }


class Show(pydantic.BaseModel):
    """`/api/show`; older clients send `name`."""

    model_config = pydantic.ConfigDict(strict=True)

    model: str = Field(validation_alias=AliasChoices("model", "name"))


class _OllamaForm(Form):
    """An answer under the name that the client called the model by."""

    json_lines = True

    def __init__(self, model: str, began: float, *, logprobs: bool) -> None:
        self._model = model
        self._began = began
        self.lists_tokens = logprobs

    @staticmethod
    def shape(text: str) -> dict[str, Any]:
        """Return the field that holds a text."""
        raise NotImplementedError

    def whole(self, all_generated: Sequence[Generated]) -> dict[str, Any]:
        """Return the finished answer."""
        (generated,) = all_generated
        return self._last(generated, generated.text, generated.logprobs)

    def piece(self, generated: Generated, piece: kdtool.TextPiece) -> Iterator[dict[str, Any]]:
        """Yield a piece's text."""
        if piece.text or (piece.logprobs and self.lists_tokens):
            yield self._line(piece.text, piece.logprobs)

    def end(self, all_generated: Sequence[Generated]) -> Iterator[dict[str, Any]]:
        """Yield the line with the figures."""
        yield self._last(all_generated[0], "", ())

    def _line(self, text: str, logprobs: Sequence[kdtool.TokenLogprob], *, done: bool = False) -> dict[str, Any]:
        shown = {"logprobs": [_logprob(token) for token in logprobs]} if self.lists_tokens and logprobs else {}
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


def empty_answer(form: type[_OllamaForm], model: str, reason: str) -> dict[str, Any]:
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
