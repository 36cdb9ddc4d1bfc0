"""Teacher plugin `openai`: a model behind a server that speaks the OpenAI protocol.

`OpenAI` is the teacher, `_runtime` shows it to evaluators. `_server` sends requests, `_texts` turns prompts into answers,
`_tokens` asks for the likeliest tokens and compares tokenizers, `_address` says which servers may be asked. All of them load
in hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Literal

import kdtool
import pydantic

from kdtool_teacher_openai._address import require_url

if TYPE_CHECKING:
    from kdtool_teacher_openai._server import Server
    from kdtool_teacher_openai._tokens import TopTokens

__all__ = ["OpenAI"]

_PROTOCOL = "1"
"""Grows when the same request would be sent or read otherwise, so that what older versions were told is asked for anew."""


class OpenAI(kdtool.Teacher):
    """A model behind a local server: its answers, and the likeliest tokens where the server tells them."""

    class Config(kdtool.Config):
        """Settings of the teacher `openai`."""

        url: str = kdtool.Field(json_schema_extra=kdtool.does_not_affect_results())
        """The server's address, such as http://127.0.0.1:8000/v1; on this machine or at a private address."""
        model: str = kdtool.Field(min_length=1)
        """The model's name as the server lists it. It stands for the weights: other weights need another name."""
        api: Literal["chat", "completions"] = "chat"
        """`chat`: a prompt is what a user says, written by the server's chat template. `completions`: it is continued."""
        tokenizer: str | None = kdtool.Field(default=None, min_length=1)
        """The tokenizer of the server's model: a folder, a hub name, or a .gguf file. None: unknown, it gives text alone."""
        top_k: int | None = kdtool.Field(default=None, ge=1, le=1000)
        """Ask for so many of the likeliest tokens at each position, for losses on distributions. None: text alone."""
        licence: str | None = kdtool.Field(default=None, min_length=1)
        """The licence of the server's model, as model cards name it (`apache-2.0`, `llama3.2`). None: that of the publisher,
        where `model` is a hub name that tells it."""
        key_variable: str | None = kdtool.Field(
            default=None, min_length=1, json_schema_extra=kdtool.does_not_affect_results()
        )
        """The environment variable that holds the server's key. None: the server wants none."""
        concurrency: int = kdtool.Field(default=8, ge=1, le=256, json_schema_extra=kdtool.does_not_affect_results())
        """Requests under way at the same time."""
        timeout: float = kdtool.Field(default=600, gt=0, le=86400, json_schema_extra=kdtool.does_not_affect_results())
        """Seconds without a sign of an answer after which a request is given up and sent again."""
        retries: int = kdtool.Field(default=5, ge=0, le=100, json_schema_extra=kdtool.does_not_affect_results())
        """How often a request is sent again that got no answer."""

        @pydantic.field_validator("url")
        @classmethod
        def _url(cls, url: str) -> str:
            return require_url(url)

        @pydantic.model_validator(mode="after")
        def _tokens_are_known(self) -> OpenAI.Config:
            if self.top_k is not None and self.tokenizer is None:
                raise ValueError("top_k needs `tokenizer`: token ids mean nothing without knowing whose they are")
            return self

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.offers: frozenset[kdtool.Offer] = frozenset({"text"} if config.top_k is None else {"text", "top-k"})
        self.speaks_as = {"model": config.model, "api": config.api, "protocol": _PROTOCOL}
        self._server: Server | None = None
        self._tokenizer: kdtool.Tokenizer | None = None
        self._tokens: TopTokens | None = None
        self._offline = False

    def kdtool_acknowledge(self) -> kdtool.Terms:
        """Return the terms of the model behind the server; one whose licence nobody names is not taken for a free one."""
        from kdtool_transformers import known_terms, licence_of

        licence = self.config.licence or licence_of(self.config.model)
        if licence is not None:
            return known_terms(licence)
        remedy = f"look up the licence of {self.config.model}, and name it by `licence`"
        return kdtool.Terms("unknown licence", restrictions=(remedy,))

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        """Return the tokenizer of the server's model; where token ids will be compared, the server's own must agree."""
        self._offline = run.offline
        if self.config.tokenizer is None:
            raise kdtool.UsageError(
                "which tokenizer the server's model has is not known: say it by `tokenizer` (a folder, a hub name, a .gguf "
                "file), or take the student's from elsewhere"
            )
        if self._tokenizer is None:
            from kdtool_transformers import open_tokenizer

            self._tokenizer = open_tokenizer(self.config.tokenizer, offline=run.offline)
        if self.config.top_k is not None and not run.offline:
            self._top_tokens()
        return self._tokenizer

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        from kdtool_teacher_openai._texts import answers

        return answers(self._opened(), self.config, requests)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Give the server to evaluators of text; nothing is asked before they ask."""
        from kdtool_teacher_openai._runtime import AnsweringRuntime

        self._offline = run.offline
        return AnsweringRuntime(self) if subject.role == "teacher" else None

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.Want) -> kdtool.Signal:
        sparse = self._top_tokens().of(batch, want.temperature) if "top-k" in want.kinds else None
        return kdtool.Signal(fingerprint=f"{self.config.model} behind a server", sparse=sparse)

    def kdtool_close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._tokens = None

    def _opened(self) -> Server:
        """Return the server, once it has said that it serves the model."""
        if self._server is None:
            from kdtool_teacher_openai._server import Server
            from kdtool_teacher_openai._texts import require_model

            server = Server(self.config, offline=self._offline)
            try:
                require_model(server, self.config)
            except BaseException:
                server.close()
                raise
            self._server = server
        return self._server

    def _top_tokens(self) -> TopTokens:
        if self._tokens is None:
            from kdtool_transformers import open_tokenizer

            from kdtool_teacher_openai._tokens import TopTokens

            if self._tokenizer is None:
                self._tokenizer = open_tokenizer(self.config.tokenizer or "", offline=self._offline)
            self._tokens = TopTokens(self._opened(), self.config, self._tokenizer)
        return self._tokens
