"""Requests of Ollama's protocol. As there, unknown fields and options without effect here are ignored."""

from __future__ import annotations

import secrets
from typing import Annotated, Any

import kdtool
import pydantic
from pydantic import AliasChoices, Field

from kdtool_command_serve.parameters import LONGEST, Stop

__all__ = ["Chat", "Generate", "Message", "Show"]


def _without_null(given: Any) -> Any:
    """Leave out fields that are null, which stand for their defaults."""
    return {name: value for name, value in given.items() if value is not None} if isinstance(given, dict) else given


class Options(pydantic.BaseModel):
    """`options` of a request, with Ollama's defaults. `temperature` None: 0 for a gap, else 0.8."""

    num_predict: int = -1
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.9
    top_k: Annotated[int, Field(ge=0)] = 40
    seed: int | None = None
    stop: Stop = []

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        return _without_null(given)

    @pydantic.field_validator("stop", mode="before")
    @classmethod
    def _list(cls, given: Any) -> Any:
        stops = [given] if isinstance(given, str) else given
        return [stop for stop in stops if stop] if isinstance(stops, list) else stops

    def request(self, prompt: str, **further: Any) -> kdtool.Request:
        """Return the request to a model."""
        gap = further.get("suffix") is not None
        temperature = (0.0 if gap else 0.8) if self.temperature is None else self.temperature
        return kdtool.Request(
            "0",
            prompt,
            self.num_predict if self.num_predict > 0 else LONGEST,
            tuple(self.stop),
            temperature=temperature,
            seed=secrets.randbits(31) if self.seed is None else abs(self.seed),
            top_p=self.top_p,
            top_k=self.top_k,
            **further,
        )


class _Request(pydantic.BaseModel):
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

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        return _without_null(given)

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
    suffix: str = ""
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


class Message(pydantic.BaseModel):
    """A turn of a conversation."""

    model_config = pydantic.ConfigDict(strict=True)

    role: str
    content: str = ""
    images: list[Any] = []

    @pydantic.model_validator(mode="before")
    @classmethod
    def _leave_out_null(cls, given: Any) -> Any:
        return _without_null(given)

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
