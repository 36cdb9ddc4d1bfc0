"""Questions, read from the lines of a file, and the scores of answers to them.

An answer is compared with the expected ones, or runs as a program under the tests of its question.
"""

from __future__ import annotations

import builtins
import re
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import kdtool
from kdtool_measuring import records_of
from kdtool_programs import Module, Task, code_of, verdicts_of

if TYPE_CHECKING:
    from kdtool_measuring import Answer

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


def score(question: Question, answer: str) -> float:
    """Return the best score, from 0 to 1, of an answer against the expected ones; not for programs."""
    return max(_score(question.metric, answer, expected) for expected in question.expected)


def _score(metric: str, answer: str, expected: str) -> float:
    if metric == "contains":
        return float(expected in answer)
    if metric == "regex":
        return float(re.search(expected, answer) is not None)
    if metric == "edit-similarity":
        from rapidfuzz import fuzz

        return float(fuzz.ratio(answer.strip(), expected.strip())) / 100
    return float(answer.strip() == expected.strip())


_PROGRAM_MEMORY = 512 * 2**20


def judge(
    run: kdtool.RunInfo, file: Path, asked: Sequence[tuple[Question, Answer]], seconds: float
) -> dict[str, tuple[float, str]]:
    """Return score and verdict in words of each question, by its id; `file` keeps verdicts of a killed run.

    Raises:
        kdtool_programs.SandboxError: programs cannot be run safely here.
    """
    tasks = [
        Task(f"{question.id}#{number}", _module(question, answer, tests), seconds, _PROGRAM_MEMORY)
        for question, answer in asked
        for number, tests in enumerate(question.expected)
    ]
    verdicts = verdicts_of(run, file, {"python": tasks})
    judged = {}
    for question, answer in asked:
        tried = [verdicts[f"{question.id}#{number}"] for number in range(len(question.expected))]
        best = next((verdict for verdict in tried if verdict.has_passed), tried[0])
        judged[question.id] = float(best.has_passed and not answer.missing), f"{best.status} {best.reason}".strip()
    return judged


def names_of(tests: str) -> tuple[str, ...]:
    """Return the names that tests use without defining them: those of the program."""
    module = symtable.symtable(tests, "<tests>", "exec")
    defined = {symbol.get_name() for symbol in module.get_symbols() if symbol.is_assigned() or symbol.is_imported()}
    used: set[str] = set()
    tables = [module]
    while tables:
        table = tables.pop()
        tables += table.get_children()
        used |= {symbol.get_name() for symbol in table.get_symbols() if table is module or symbol.is_global()}
    return tuple(sorted(used - defined - {*dir(builtins)}))


def _module(question: Question, answer: Answer, tests: str) -> Module:
    names = names_of(tests)
    code = code_of(answer.text, continues=answer.continues, names=names)
    return Module(question.prompt + code if answer.continues else code, tests, names)
