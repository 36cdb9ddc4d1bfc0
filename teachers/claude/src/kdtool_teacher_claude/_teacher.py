"""The teacher `claude`."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool

from kdtool_teacher_claude._config import ClaudeConfig

if TYPE_CHECKING:
    from kdtool_teacher_claude._requests import Asked
    from kdtool_teacher_claude._service import Service

__all__ = ["Claude"]

_TERMS = "Anthropic Commercial Terms of Service"
_URL = "https://www.anthropic.com/legal/commercial-terms"
_ANSWERS = "answers.sqlite"
_PROTOCOL = "1"
"""Grows when the same request would be sent or read otherwise, so that older versions' answers are asked for anew."""


class Claude(kdtool.Teacher):
    """Anthropic's models: text alone, within a budget, each answer paid for once."""

    class Config(ClaudeConfig):
        """Settings of the teacher `claude`."""

    config: Config
    offers: frozenset[kdtool.SignalKind] = frozenset({"text"})
    stores_answers = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        system = hashlib.sha256(config.system.encode(errors="surrogatepass")).hexdigest()
        self.answer_cache_key = {"model": config.model, "system": system, "protocol": _PROTOCOL}
        self._ledger: Path | None = config.ledger
        self._offline = False
        self._say: Callable[[str], None] = print
        self._service: Service | None = None

    def kdtool_acknowledge(self) -> kdtool.LicenceTerms:
        """Return Anthropic's terms, which a recipe must acknowledge."""
        return kdtool.LicenceTerms(
            _TERMS,
            url=_URL,
            restrictions=(
                "answers may not be used to build or train a competing product or service, or competing models, unless "
                "Anthropic approves it",
            ),
            notices=(f"Trained on answers of Anthropic's {self.config.model}, under the {_TERMS} ({_URL}).",),
        )

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer | None:
        self._remember(run)
        return None

    def kdtool_identity(self, run: kdtool.RunInfo) -> None:
        self._remember(run)

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Refuse a model whose price is unknown."""
        from kdtool_teacher_claude._prices import prices_of

        self._remember(run)
        prices_of(self.config)
        return ()

    def kdtool_estimate_answers(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float
    ) -> Iterator[kdtool.Estimate]:
        from kdtool_teacher_claude._estimate import estimate

        self._remember(run)
        if not self.config.count_tokens:
            yield from estimate(self.config, self._prepare(requests), times, self._file(), None)
            return
        from kdtool_teacher_claude._counting import counting

        with counting(self.config, offline=run.offline) as count:
            yield from estimate(self.config, self._prepare(requests), times, self._file(), count)

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        return self._open().answer(self._prepare(requests))

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Give the teacher to evaluators of text; nothing is asked before they ask."""
        from kdtool_teacher_claude._runtime import AnsweringRuntime

        self._remember(run)
        return AnsweringRuntime(self.kdtool_answer) if subject.role == "teacher" else None

    def kdtool_close(self) -> None:
        if self._service is not None:
            self._service.close()
        self._service = None

    def _remember(self, run: kdtool.RunInfo) -> None:
        """Keep what answers depend on: they are asked for without a run."""
        self._offline, self._say = run.offline, run.say
        if self._ledger is None and run.store is not None:
            self._ledger = run.store / _ANSWERS

    def _prepare(self, requests: Iterable[kdtool.Request]) -> Iterator[Asked]:
        """Return requests as they are sent; a prompt is a conversation of one turn."""
        from kdtool_teacher_claude._requests import prepare

        for one in requests:
            request = one if one.turns else replace(one, prompt="", turns=(("user", one.prompt),))
            yield prepare(self.config, request, self.answer_key(request))

    def _file(self) -> Path:
        if self._ledger is None:
            raise kdtool.UsageError("ledger: outside of a run there is no store to keep paid answers in; name a file")
        return self._ledger

    def _open(self) -> Service:
        if self._service is None:
            from kdtool_teacher_claude._service import Service

            self._service = Service(self.config, self._file(), offline=self._offline, say=self._say)
        return self._service
