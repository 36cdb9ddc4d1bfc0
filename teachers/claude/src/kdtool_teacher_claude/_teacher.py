"""The teacher `claude`, also as evaluators see it: it converses, and has neither states nor likelihoods to show."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_measuring import AnsweringRuntime, Priced

from kdtool_teacher_claude._config import ClaudeConfig

if TYPE_CHECKING:
    from kdtool_teacher_claude._requests import Asked
    from kdtool_teacher_claude._service import Service

_TERMS = "Anthropic Commercial Terms of Service"
_URL = "https://www.anthropic.com/legal/commercial-terms"
_ANSWERS = "answers.sqlite"
_PROTOCOL = "1"
"""Grows when the same request would be sent or read otherwise, so that answers of older versions are requested again."""


class Claude(kdtool.Teacher, Priced):
    """Anthropic's models: only text, within a budget, each answer paid for once."""

    class Config(ClaudeConfig):
        """Settings of the teacher `claude`."""

    config: Config
    offers: frozenset[kdtool.SignalKind] = frozenset({"text"})
    stores_answers = True
    converses = True

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        system = hashlib.sha256(config.system.encode(errors="surrogatepass")).hexdigest()
        self.answer_cache_key = {"model": config.model, "system": system, "protocol": _PROTOCOL}
        for name in ("thinking", "thinking_tokens", "effort"):  # left out at defaults, so that older answers are found
            if value := getattr(config, name):
                self.answer_cache_key[name] = str(value)
        self._ledger: Path | None = config.ledger
        self._offline = False
        self._say: Callable[[str], None] = print
        self._service: Service | None = None
        self._noted: list[kdtool.Request] | None = None
        self._planned = self._reserved = 0

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
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
        """Refuse a model whose price is unknown, and a damaged ledger."""
        from kdtool_measuring import read_summary

        from kdtool_teacher_claude._requests import prices_of

        self._remember(run)
        prices_of(self.config)
        if self._ledger is not None and self._ledger.exists():
            read_summary(self._ledger)
        return ()

    def estimate_answers(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], times: float = 1, most: float = 1
    ) -> Iterator[kdtool.Estimate]:
        yield from self._forecast(run, requests, "text", times, most)

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield what the answers to evaluators will cost; those for text are asked for by corpora."""
        from kdtool_teacher_claude._money import requests_of

        answering = run.implementing("kdtool_answer")
        names = [name for name in answering if run.component(name, kdtool.Teacher).config is self.config]
        self._noted = []
        try:
            for evaluator in run.implementing("kdtool_evaluate") if names else ():
                what = evaluator.rpartition(".")[2]
                requests = requests_of(run, evaluator, names[0], self._noted)
                if isinstance(requests, str):
                    yield kdtool.Estimate(f"requests of evaluator {what}", note=f"{requests}; they cost money, too")
                elif requests:
                    yield from self._forecast(run, requests, f"evaluator {what}")
        finally:
            self._noted = None

    def _forecast(
        self, run: kdtool.RunInfo, requests: Iterable[kdtool.Request], purpose: str, times: float = 1, most: float = 1
    ) -> Iterator[kdtool.Estimate]:
        from kdtool_teacher_claude._money import Purpose, estimate

        self._remember(run)
        what = Purpose(purpose, times, most, run.say, self._planned, self._reserved)
        for part in estimate(self.config, self._prepare(requests, purpose), what, self._file()):
            self._planned += part.picodollars
            self._reserved += part.most_picodollars or 0
            yield part

    def kdtool_answer(self, requests: Iterable[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        return self._answer(requests, "text")

    def kdtool_open(self, run: kdtool.RunInfo, subject: kdtool.Subject) -> kdtool.Runtime | None:
        """Give the teacher to evaluators of text; nothing is asked before they ask."""
        self._remember(run)
        if subject.role != "teacher":
            return None
        evaluator = run.label.removesuffix(f"-{subject.name}")
        purpose = f"evaluator {evaluator}" if run.stage == "scores" else run.stage
        return AnsweringRuntime(partial(self._answer, purpose=purpose), frozenset({"converse"}), self.spent)

    def spent(self) -> str:
        return self._service.spent() if self._service is not None else ""

    def kdtool_account(self, run: kdtool.RunInfo) -> Mapping[str, Any] | None:
        """Return the money in the ledger, that of all its runs, by use, and charges that may be missing there."""
        from kdtool_measuring import read_summary

        self._remember(run)
        if not self._file().exists():
            return None
        summary = read_summary(self._file())
        return {
            "requests": summary.attempts.get("answered", 0),
            "picodollars": summary.spent,
            "purposes": summary.purposes,
            "thinking_tokens": summary.thinking,
            "unknown_requests": len(summary.unknown),
            "unknown_picodollars": sum(attempt.reserved for attempt in summary.unknown),
        }

    def kdtool_close(self) -> None:
        if self._service is not None:
            self._service.close()
        self._service = None

    def _remember(self, run: kdtool.RunInfo) -> None:
        """Keep what answers depend on: they are asked for without a run."""
        self._offline, self._say = run.offline, run.say
        if self._ledger is None and run.store is not None:
            self._ledger = run.store / _ANSWERS

    def _answer(self, requests: Iterable[kdtool.Request], purpose: str) -> Iterator[kdtool.TextAnswer]:
        if self._noted is not None:
            return self._note(requests, self._noted)
        return self._open().answer(self._prepare(requests, purpose))

    def _note(self, requests: Iterable[kdtool.Request], noted: list[kdtool.Request]) -> Iterator[kdtool.TextAnswer]:
        """Refuse each request, and note it for the forecast."""
        from kdtool_teacher_claude._requests import refusal

        for request in requests:
            noted.append(request)
            yield refusal(request, "nothing is asked before the run")

    def _prepare(self, requests: Iterable[kdtool.Request], purpose: str) -> Iterator[Asked]:
        """Return requests as they are sent; a prompt is a conversation of one turn."""
        from kdtool_teacher_claude._requests import prepare

        for one in requests:
            request = one if one.turns else replace(one, prompt="", turns=(("user", one.prompt),))
            yield prepare(self.config, request, self.answer_key(request), purpose)

    def _file(self) -> Path:
        if self._ledger is None:
            raise kdtool.UsageError("ledger: outside of a run there is no store to keep paid answers in; name a file")
        return self._ledger

    def _open(self) -> Service:
        if self._service is None:
            from kdtool_teacher_claude._service import Service

            self._service = Service(self.config, self._file(), offline=self._offline, say=self._say)
        return self._service
