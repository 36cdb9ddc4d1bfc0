"""Settings of the teacher `openai`."""

from __future__ import annotations

from typing import Literal

import kdtool
import pydantic

from kdtool_teacher_openai._address import require_url

__all__ = ["OpenAIConfig"]


class OpenAIConfig(kdtool.Config):
    """Settings of the teacher `openai`."""

    url: kdtool.ServiceUrl = kdtool.Field(json_schema_extra=kdtool.does_not_affect_results())
    """The server's address, such as http://127.0.0.1:8000/v1; on this machine or at a private address. With a key, or on
    another machine, it is given on the command line, or listed in KDTOOL_TRUST_URL."""
    model: str = kdtool.Field(min_length=1)
    """The model's name as the server lists it. It stands for the weights: other weights need another name."""
    api: Literal["chat", "completions"] = "chat"
    """`chat`: a prompt is a user's message, formatted by the server's chat template. `completions`: it is continued."""
    tokenizer: kdtool.RecipePathOrName | None = kdtool.Field(default=None, min_length=1)
    """The tokenizer of the server's model: a folder, a hub name, or a .gguf file. None: unknown, it gives only text."""
    top_k: int | None = kdtool.Field(default=None, ge=1, le=1000)
    """Number of likeliest tokens to ask for at each position, for losses on distributions. None: only text."""
    licence: str | None = kdtool.Field(default=None, min_length=1)
    """The licence of the server's model, as model cards name it (`apache-2.0`, `llama3.2`). None: that of the publisher,
    if `model` is a Hub name whose card gives it."""
    key_variable: kdtool.KeyVariable | None = kdtool.Field(
        default=None, json_schema_extra=kdtool.does_not_affect_results()
    )
    """The environment variable with the server's key; its name ends in `_API_KEY`. None: the server needs no key."""
    concurrency: int = kdtool.Field(default=8, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
    """Largest number of requests at the same time."""
    timeout: float = kdtool.Field(default=600, gt=0, le=86400, json_schema_extra=kdtool.does_not_affect_results())
    """Seconds without a part of an answer before a request is given up and sent again."""
    retries: int = kdtool.Field(default=5, ge=0, le=100, json_schema_extra=kdtool.does_not_affect_results())
    """Number of times that a request without an answer is sent again."""

    @pydantic.field_validator("url")
    @classmethod
    def _url(cls, url: str) -> str:
        return require_url(url)

    @pydantic.model_validator(mode="after")
    def _tokens_are_known(self) -> OpenAIConfig:
        if self.top_k is not None and self.tokenizer is None:
            raise ValueError("top_k needs `tokenizer`, which defines the token ids: give both, or neither")
        return self
