"""The filter `judge`: a teacher scores each example that all other filters keep.

An example becomes a task with its answer, rendered by a template, and examples are sent one batch at a time. The
verdicts are recorded next to the text, with their provenance.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import kdtool
import pydantic
from kdtool_measuring import Templates

_Name = Annotated[str, kdtool.Field(pattern=r"^[a-z_][a-z0-9_]*$")]
_Score = Annotated[int, kdtool.Field(ge=1, le=5)]
_RECENT = 4096
"""Verdicts in memory: a corpus has its rows judged when it makes them, and soon after the run judges them again."""
_ENOUGH = 16
"""Minimum size of a first batch that ends the run if all of its verdicts are unreadable."""
_USUAL = kdtool.Example("usual", kdtool.Completion("x" * 1_000, "x" * 2_000))
REFUSED, UNREADABLE = "refused by the judge", "unreadable verdict"


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
        max_tokens: int = kdtool.Field(default=512, ge=1, le=1_048_576)
        """Maximum tokens per verdict; one that is cut off there is unreadable."""

        @pydantic.field_validator("criteria")
        @classmethod
        def _has_unused_names(cls, criteria: dict[str, int]) -> dict[str, int]:
            if "reason" in criteria:
                raise ValueError(
                    "`criteria` contains `reason`, the line of a verdict for its sentence; choose another name"
                )
            return criteria

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.derives_from = {config.ask: "text"}
        self._folder: Path | None = None
        self._recent: dict[str, str] = {}
        self._answered = 0
        self._templates = Templates(Path(__file__).with_name("templates"))
        self._version = self._templates.version(TEMPLATE)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the template's version."""
        return {"template": self._version}

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> Sequence[str]:
        """Report filters after this one: it would judge rows that they reject."""
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
        from kdtool_measuring import priced_teacher

        if (teacher := priced_teacher(run, self.config.ask)) is not None:
            parts = teacher.estimate_answers(run, [self._request(_USUAL)])
            dollars = kdtool.dollars(sum(part.picodollars for part in parts), up=True)
            note = f"at most {dollars} for a row of 3,000 characters that the other filters keep"
            yield kdtool.Estimate("verdicts of judge", note=note)

    def kdtool_filter(self, run: kdtool.RunInfo, examples: Sequence[kdtool.Example]) -> Sequence[str | None]:
        """Return the first criterion with too low a score, as `clarity below 3`, or why there is no verdict.

        Raises:
            kdtool.UsageError: the teacher refuses each of the first requests, or all first verdicts are unreadable.
            kdtool.PluginError: the teacher does not answer a request.
        """
        if is_new := run.folder != self._folder:  # another text, for example of another phase
            self._folder, self._recent, self._answered = run.folder, {}, 0
        requests = [self._request(example) for example in examples]
        asked = {request.id: request for request in requests if request.id not in self._recent}
        answers = self._ask(run, list(asked.values()))
        by_request = {request.id: example for request, example in zip(requests, examples, strict=True)}
        verdicts = {name: self._judge(run, by_request[name], asked[name], answers[name]) for name in asked}
        file = self._file(run)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("w" if is_new else "a", encoding="utf-8", newline="\n") as lines:
            lines.writelines(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in verdicts.values())
        readable = [verdict for verdict in verdicts.values() if verdict.rejected != UNREADABLE]
        if not self._recent and len(verdicts) >= _ENOUGH and not readable:
            raise kdtool.UsageError(
                f"judge.ask: none of the first {len(verdicts):,} verdicts of {self.config.ask} ends in the requested "
                "format; raise judge.max_tokens, or let another teacher judge"
            )
        reasons = self._recent | {name: verdict.rejected for name, verdict in verdicts.items()}
        self._recent = dict(list(reasons.items())[-_RECENT:])
        return [reasons[request.id] or None for request in requests]

    def _request(self, example: kdtool.Example) -> kdtool.Request:
        """Return the request for a verdict on an example. Equal texts have equal requests."""
        task, answer = _task_and_answer(example.body)
        criteria = tuple(self.config.criteria)
        values = {"answer": answer, "criteria": criteria, "language": example.language, "task": task}
        turns = self._templates.render(TEMPLATE, values)
        name = hashlib.sha256(json.dumps(turns).encode()).hexdigest()
        return kdtool.Request(name, "", self.config.max_tokens, turns=turns)

    def _ask(self, run: kdtool.RunInfo, requests: Sequence[kdtool.Request]) -> Mapping[str, kdtool.TextAnswer]:
        """Return the answers by the requests' ids; all requests are sent together."""
        if not requests:
            return {}
        from kdtool_measuring import AskingProgress, priced_teacher, refusal_remedy

        ask = self.config.ask
        priced = priced_teacher(run, ask)
        progress = AskingProgress(run, None, priced.spent if priced else None, "verdicts")
        answers = {}
        for answer in run.component(ask, kdtool.Teacher).kdtool_answer(iter(requests)):
            answers[answer.id] = answer
            self._answered += 1
            progress.show(self._answered)
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


TEMPLATE = "template"


def _task_and_answer(body: kdtool.Text | kdtool.Completion | kdtool.Messages) -> tuple[str, str]:
    """Return an example's task and the answer to learn, without white space at the ends; a text has no task."""
    if isinstance(body, kdtool.Text):
        return "", body.text.strip()
    if isinstance(body, kdtool.Completion):
        return body.prompt.strip(), body.completion.strip()
    turns = list(body.turns or (("", ""),))
    if isinstance(body, kdtool.DetailedMessages):
        said = (json.dumps(detail, ensure_ascii=False) if detail else "" for detail in body.details)
        turns = [(role, f"{text}\n{shown}") for (role, text), shown in zip(turns, said, strict=True)]
        turns[:0] = [("tools", json.dumps(body.tools, ensure_ascii=False))] if body.tools else []
    *before, (_, last) = turns
    task = before[0][1] if len(before) == 1 else "\n\n".join(f"{role}: {content}" for role, content in before)
    return task.strip(), last.strip()


_BLOCK = re.compile(r"<verdict>((?:(?!<verdict>).)*)</verdict>\s*\Z", re.DOTALL)
_LINE = re.compile(r"^[ \t]*([a-z_][a-z0-9_]*)[ \t]*:[ \t]*(.*?)[ \t]*$", re.MULTILINE)


@dataclass(frozen=True)
class Verdict:
    """The verdict on an example, with its provenance; `rejected` is the reason for the rejection, "" if it was kept."""

    id: str
    source: str
    rejected: str
    scores: Mapping[str, int]
    sentence: str
    judge: str
    model: str
    template: str
    request: str
    tokens_in: int
    tokens_out: int
    picodollars: int


def read_scores(text: str, criteria: Iterable[str]) -> tuple[Mapping[str, int], str]:
    """Return scores by criterion and the sentence of an answer that ends with a verdict; no scores if any is unreadable."""
    block = _BLOCK.search(text)
    lines = _LINE.findall(block[1]) if block else []
    values = dict(lines)
    scores = {name: values.get(name, "") for name in criteria}
    if len(values) < len(lines) or not all(score in {"1", "2", "3", "4", "5"} for score in scores.values()):
        return {}, ""
    return {name: int(score) for name, score in scores.items()}, values.get("reason", "")


def reason_to_reject(scores: Mapping[str, int], criteria: Mapping[str, int]) -> str:
    """Return why scores are rejected, "" if they are not. `criteria` are the minimum scores."""
    if not scores:
        return UNREADABLE
    return next((f"{name} below {least}" for name, least in criteria.items() if scores[name] < least), "")
