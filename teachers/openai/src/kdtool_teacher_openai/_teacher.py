"""The teacher `openai`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_teacher_openai._config import OpenAIConfig

if TYPE_CHECKING:
    from kdtool_teacher_openai._answers import TopTokens
    from kdtool_teacher_openai.client import Server

_PROTOCOL = "1"
"""Grows when the same request would be sent or read otherwise, so that answers of older versions are requested again."""


class OpenAI(kdtool.Teacher):
    """A model on a local server: its answers, and the likeliest tokens if the server gives them."""

    class Config(OpenAIConfig):
        """Settings of the teacher `openai`."""

    config: Config
    offers_with: Mapping[kdtool.SignalKind, Mapping[str, Any]] = {"top-k": {"top_k": 20}}

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.offers: frozenset[kdtool.SignalKind] = frozenset({"text"} if config.top_k is None else {"text", "top-k"})
        self.converses = config.api == "chat"
        self.answer_cache_key = {"model": config.model, "api": config.api, "protocol": _PROTOCOL}
        self._server: Server | None = None
        self._tokenizer: kdtool.Tokenizer | None = None
        self._tokens: TopTokens | None = None
        self._offline = False

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Return the terms of the server's model; an unknown licence does not count as a free one."""
        from kdtool_transformers.card import known_terms, licence_of

        licence = self.config.licence or licence_of(self.config.model)
        if licence is not None:
            return known_terms(licence)
        remedy = f"look up the licence of {self.config.model}, and name it by `licence`"
        return kdtool.LicenceTerms("unknown licence", restrictions=(remedy,))

    def kdtool_identity(self, run: kdtool.RunInfo) -> None:
        self._remember(run)

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        """Return the tokenizer of the server's model; if token ids will be compared, the server's own must agree."""
        self._remember(run)
        if self.config.tokenizer is None:
            raise kdtool.UsageError(
                "the tokenizer of the server's model is unknown: name it by `tokenizer` (a folder, a hub name, a .gguf "
                "file), or take the student's from elsewhere"
            )
        if self._tokenizer is None:
            from kdtool_transformers import open_tokenizer

            self._tokenizer = open_tokenizer(self.config.tokenizer, offline=run.offline)
        if self.config.top_k is not None and not run.offline:
            self._top_tokens()
        return self._tokenizer

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        from kdtool_teacher_openai._answers import answers

        return answers(self._open_server(), self.config, requests)

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Give the server to evaluators of text; nothing is asked before they ask."""
        from kdtool_measuring import AnsweringRuntime

        self._remember(run)
        if subject.role != "teacher":
            return None
        # By `chat` a prompt is a user's message, which is answered, not continued.
        able: frozenset[kdtool.Ability] = frozenset({"converse"} if self.converses else {"continue", "infill"})
        return AnsweringRuntime(self.kdtool_answer, able)

    def kdtool_signal(self, batch: kdtool.Batch, want: kdtool.SignalRequest) -> kdtool.Signal:
        sparse = self._top_tokens().of(batch, want.temperature) if "top-k" in want.kinds else None
        return kdtool.Signal(fingerprint=f"{self.config.model} on a server", sparse=sparse)

    def kdtool_close(self) -> None:
        if self._server is not None:
            self._server.close()
        self._server = self._tokens = None

    def _remember(self, run: kdtool.RunInfo) -> None:
        """Keep what answers depend on: they are asked for without a run."""
        self._offline = run.offline

    def _open_server(self) -> Server:
        """Return the server, once it has confirmed that it serves the model."""
        if self._server is None:
            from kdtool_teacher_openai._answers import require_model
            from kdtool_teacher_openai.client import Server

            server = Server(self.config, offline=self._offline)
            try:
                require_model(server, self.config.model)
            except BaseException:
                server.close()
                raise
            self._server = server
        return self._server

    def _top_tokens(self) -> TopTokens:
        if self._tokens is None:
            from kdtool_transformers import open_tokenizer

            from kdtool_teacher_openai._answers import TopTokens

            if self._tokenizer is None:
                self._tokenizer = open_tokenizer(self.config.tokenizer or "", offline=self._offline)
            self._tokens = TopTokens(self._open_server(), self.config, self._tokenizer)
        return self._tokens
