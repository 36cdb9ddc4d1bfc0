"""The filter `judge`: asks a teacher for a verdict on every example, one batch at a time."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import kdtool
import pydantic

from kdtool_filter_judge._requests import NAME, VARIABLES, request_for, templates_of
from kdtool_filter_judge._verdicts import REFUSED, UNREADABLE, Verdict, read_scores, reason_to_reject, record

if TYPE_CHECKING:
    from kdtool_asking import Templates

__all__ = ["JudgeFilter"]

_Name = Annotated[str, kdtool.Field(pattern=r"^[a-z_][a-z0-9_]*$")]
_Score = Annotated[int, kdtool.Field(ge=1, le=5)]
_RECENT = 4096
"""Verdicts in memory: a corpus has its rows judged when it makes them, and soon after the run judges them again."""
_ENOUGH = 16
"""Minimum size of a first batch that ends the run if all of its verdicts are unreadable."""
_USUAL = kdtool.Example("usual", kdtool.Completion("x" * 1_000, "x" * 2_000))


class JudgeFilter(kdtool.Filter):
    """Rejects examples that a teacher scores too low, and those on which it gives no readable verdict.

    Verdicts on all examples are in `judge/` next to the text, with scores, the teacher's sentence, and provenance.
    """

    config: Config
    undecided = frozenset({REFUSED, UNREADABLE})

    class Config(kdtool.Config):
        """Settings of `judge`."""

        ask: str = kdtool.Field(default="teacher", min_length=1)
        """The teacher that judges, by its name in the recipe: `teacher`, or `teachers.NAME`."""
        criteria: dict[_Name, _Score] = kdtool.Field(default={"correctness": 4, "clarity": 3}, min_length=1)
        """Criteria, each with its minimum score from 1 to 5."""
        template: kdtool.RecipePath | None = None
        """A Jinja file to replace this package's; it may extend `_base.jinja`."""
        variables: dict[_Name, str] = kdtool.Field(default={})
        """Further variables of the template."""
        max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
        """Maximum tokens per verdict; one that is cut off there is unreadable."""

        @pydantic.model_validator(mode="after")
        def _has_unused_names(self) -> JudgeFilter.Config:
            if "reason" in self.criteria:
                raise ValueError(
                    "`criteria` contains `reason`, the line of a verdict for its sentence; choose another name"
                )
            if taken := sorted(VARIABLES.intersection(self.variables)):
                raise ValueError(
                    f"`variables` contains names that requests already use: {', '.join(taken)}; choose other names"
                )
            return self

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.derives_from = {config.ask: "text"}
        self._folder: Path | None = None
        self._recent: dict[str, str] = {}

    @cached_property
    def _templates(self) -> Templates:
        return templates_of(self.config.template, self.config.variables)

    @cached_property
    def _version(self) -> str:
        return str(self._templates.find(NAME))

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the template's version.

        Raises:
            kdtool.UsageError: the template cannot be read, or uses a variable that is not declared.
        """
        return {"template": self._version}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report an unusable template, and filters after this one: it would judge rows that they reject."""
        self.kdtool_identity(run)
        filters = {name: run.component(name, kdtool.Filter).config for name in run.implementing("kdtool_filter")}
        own_name = next((name for name, config in filters.items() if config is self.config), "")
        siblings = [name for name in filters if name.rpartition(".")[0] == own_name.rpartition(".")[0]]
        cheaper = [name for name in siblings if not isinstance(filters[name], JudgeFilter.Config)]
        later = [name for name in cheaper if own_name and siblings.index(name) > siblings.index(own_name)]
        if not later:
            return ()
        return [
            f"judge would be paid for rows that {', '.join(later)} reject: move {own_name} after them in the recipe"
        ]

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        """Yield the price of a verdict on a row of usual length, as a note: the number of rows that reach it is unknown."""
        from kdtool_asking import priced_teacher

        if (teacher := priced_teacher(run, self.config.ask)) is not None:
            parts = teacher.estimate_answers(run, [self._request(_USUAL)])
            dollars = sum(part.picodollars for part in parts) / 1e12
            note = f"at most ${dollars:,.4f} for a row of 3,000 characters that the other filters keep"
            yield kdtool.Estimate("verdicts of judge", note=note)

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the first criterion with too low a score, as `clarity below 3`, or why there is no verdict.

        Raises:
            kdtool.UsageError: the teacher refuses each of the first requests, or all first verdicts are unreadable.
            kdtool.PluginError: the teacher does not answer a request.
        """
        if is_new := run.folder != self._folder:  # another text, for example of another phase
            self._folder, self._recent = run.folder, {}
        requests = [self._request(example) for example in examples]
        asked = {request.id: request for request in requests if request.id not in self._recent}
        answers = self._ask(run, list(asked.values()))
        by_request = {request.id: example for request, example in zip(requests, examples, strict=True)}
        verdicts = {name: self._judge(run, by_request[name], asked[name], answers[name]) for name in asked}
        record(self._file(run), verdicts.values(), is_new=is_new)
        readable = [verdict for verdict in verdicts.values() if verdict.rejected != UNREADABLE]
        if not self._recent and len(verdicts) >= _ENOUGH and not readable:
            raise kdtool.UsageError(
                f"judge.ask: none of the first {len(verdicts):,} verdicts of {self.config.ask} ends in the requested "
                "format; raise judge.max_tokens, change judge.template, or let another teacher judge"
            )
        reasons = self._recent | {name: verdict.rejected for name, verdict in verdicts.items()}
        self._recent = dict(list(reasons.items())[-_RECENT:])
        return [reasons[request.id] or None for request in requests]

    def _request(self, example: kdtool.Example) -> kdtool.Request:
        config = self.config
        return request_for(example, self._templates, config.criteria, config.variables, config.max_tokens)

    def _ask(self, run: kdtool.RunInfo, requests: Sequence[kdtool.Request]) -> Mapping[str, kdtool.TextAnswer]:
        """Return the answers by the requests' ids; all requests are sent together."""
        if not requests:
            return {}
        from kdtool_asking import refusal_remedy

        ask = self.config.ask
        answers = {answer.id: answer for answer in run.component(ask, kdtool.Teacher).kdtool_answer(iter(requests))}
        if len(answers.keys() & {request.id for request in requests}) < len(requests):
            raise kdtool.PluginError(
                f"{run.hook.owner(ask)} answered {len(answers):,} of {len(requests):,} requests; kdtool_answer must yield "
                "one answer per request"
            )
        reasons = [answer.reason for answer in answers.values() if answer.finish == "refused" and answer.reason]
        if not self._recent and len(reasons) == len(answers):
            raise kdtool.UsageError(
                f"judge.ask: {ask} refused each of {len(answers):,} requests ({reasons[0]}); {refusal_remedy(reasons[0])}"
            )
        return answers

    def _judge(
        self, run: kdtool.RunInfo, example: kdtool.Example, request: kdtool.Request, answer: kdtool.TextAnswer
    ) -> Verdict:
        scores, sentence = read_scores(answer.text, self.config.criteria) if answer.finish == "stop" else ({}, "")
        reason = REFUSED if answer.finish == "refused" else reason_to_reject(scores, self.config.criteria)
        teacher, owner = run.component(self.config.ask, kdtool.Teacher), run.hook.owner(self.config.ask)
        return Verdict(
            id=example.id,
            source=example.source,
            rejected=reason,
            scores=scores,
            sentence=sentence,
            judge=self.config.ask,
            model=str(getattr(teacher.config, "model", "") or (owner.use if owner else "")),
            template=self._version,
            request=teacher.answer_key(request),
            tokens_in=answer.tokens_in,
            tokens_out=answer.tokens_out,
            picodollars=answer.picodollars,
        )

    def _file(self, run: kdtool.RunInfo) -> Path:
        """Return the file of this filter's verdicts; it depends on the settings."""
        settings = json.dumps(self.config.model_dump(mode="json"), sort_keys=True)
        return run.folder / "judge" / f"{hashlib.sha256(settings.encode()).hexdigest()[:16]}.jsonl"
