"""Answers that are programs, under the tests of their questions."""

from __future__ import annotations

import builtins
import symtable
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import kdtool
from kdtool_programs import Module, Task, code_of, verdicts_of

from kdtool_evaluator_answers_match._questions import Question

if TYPE_CHECKING:
    from kdtool_asking import Answer

__all__ = ["judge", "names_of"]

_MEMORY = 512 * 2**20


def judge(
    run: kdtool.RunInfo, file: Path, asked: Sequence[tuple[Question, Answer]], seconds: float, workers: int
) -> dict[str, tuple[float, str]]:
    """Return score and verdict in words of each question, by its id; `file` keeps verdicts of a killed run.

    Raises:
        kdtool_programs.SandboxError: programs cannot be run safely here.
    """
    tasks = [
        Task(f"{question.id}#{number}", _module(question, answer, tests), seconds, _MEMORY)
        for question, answer in asked
        for number, tests in enumerate(question.expected)
    ]
    verdicts = verdicts_of(run, file, {"python": tasks}, workers)
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
