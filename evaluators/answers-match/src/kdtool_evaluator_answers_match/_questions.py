"""Questions, read from the lines of a file."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import kdtool
from kdtool_measuring import records_of

__all__ = ["METRICS", "Metric", "Question", "read_questions"]

Metric = Literal["exact", "contains", "regex", "edit-similarity", "runs-in-sandbox"]
METRICS: tuple[Metric, ...] = get_args(Metric)

_EXPECTED = 'a line such as {"prompt": "2 + 3 =", "expected": "5", "metric": "exact"}'


@dataclass(frozen=True)
class Question:
    """A prompt, and its expected answers; any of them counts."""

    id: str
    prompt: str
    expected: tuple[str, ...]
    metric: Metric


def read_questions(file: Path, default: Metric) -> dict[str, Question]:
    """Return the questions of a file by their ids, in its order; `default` is the metric of lines without one.

    Raises:
        kdtool.UsageError: the file cannot be read or contains no question, or a line is not a question.
    """
    questions: dict[str, Question] = {}
    for number, (location, record) in enumerate(
        records_of(file, "answers-match.file", {"prompt": "text"}, _EXPECTED), 1
    ):
        question = _question(location, record, str(number), default)
        if question.id in questions:
            raise kdtool.UsageError(f"{location}: the id {question.id!r} appears twice; give every question its own id")
        questions[question.id] = question
    return questions


def _question(location: str, record: Mapping[str, Any], number: str, default: Metric) -> Question:
    metric, expected, name = record.get("metric", default), record.get("expected", ()), record.get("id", number)
    if unknown := sorted(record.keys() - {"id", "prompt", "expected", "metric"}):
        raise kdtool.UsageError(f"{location}: unknown field {unknown[0]!r}; use id, prompt, expected and metric")
    if metric not in METRICS:
        raise kdtool.UsageError(f"{location}: metric is {metric!r}; use one of {', '.join(METRICS)}")
    answers: list[Any] = expected if isinstance(expected, list) else [expected]
    if not answers or not all(isinstance(answer, str) for answer in answers):
        raise kdtool.UsageError(f"{location}: expected must be a text or a list of texts; write {_EXPECTED}")
    if not isinstance(name, str | int):
        raise kdtool.UsageError(f"{location}: id must be a text or a number, not {name!r}")
    for answer in answers:
        _check(location, metric, answer)
    return Question(str(name), record["prompt"], tuple(answers), metric)


def _check(location: str, metric: Metric, expected: str) -> None:
    """Refuse patterns and tests that do not parse."""
    try:
        if metric == "regex":
            re.compile(expected)
        elif metric == "runs-in-sandbox":
            compile(expected, "<tests>", "exec", dont_inherit=True)
    except (re.error, SyntaxError, ValueError) as error:
        what = "a pattern of Python's re" if metric == "regex" else "Python statements"
        raise kdtool.UsageError(f"{location}: expected is not {what}: {error}") from None
