"""HumanEvalExplain: a subject describes a function, and writes it again from its own description only."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import kdtool
from kdtool_programs import PassAtKConfig, Problem, Sample, collect_samples

__all__ = ["Explained", "rewrite", "shorten"]

_LONGEST_LINE = 20
"""Characters of a line of code that a description may contain, as in OctoPack."""


@dataclass(frozen=True)
class Explained(Problem):
    """A problem in which `forms` ask for a description.

    `written_from` makes the problem that asks for the function by a description, and `shorten` a description of an answer.
    """

    written_from: Callable[[str], Problem] = field(kw_only=True)
    shorten: Callable[[str], str] = field(kw_only=True)


def shorten(answer: str, *, stop: Sequence[str], length: int, solution: str) -> str:
    """Return the description in an answer: its first `length` characters, without lines of the solution.

    A model cannot pass the code on, since longer lines of it are removed.
    """
    text = answer.strip()[:length]
    for word in stop:
        text = text.partition(word)[0]
    text = text.rstrip()
    for line in map(str.strip, solution.split("\n")):
        if len(line) > _LONGEST_LINE:
            text = text.replace(line, "")
    return text


def rewrite(
    run: kdtool.RunInfo, subject: kdtool.Subject, problems: Sequence[Problem], config: PassAtKConfig, benchmark: str
) -> list[Problem] | None:
    """Return the problems with a subject's own descriptions, one each; None if it cannot be asked, after a message."""
    once = config.model_copy(update={"samples": 1})
    answers = collect_samples(run, subject, problems, once, f"{benchmark}.descriptions")
    if answers is None:
        return None
    return [_second(problem, answer) for problem, answer in zip(problems, answers, strict=True)]


def _second(problem: Problem, answer: Sample) -> Problem:
    """Return the problem of the second step; without a description the first, which is refused again and fails."""
    if not isinstance(problem, Explained) or answer.missing:
        return problem
    return problem.written_from(problem.shorten(answer.text))
