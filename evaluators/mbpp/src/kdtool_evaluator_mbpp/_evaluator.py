"""The evaluator `mbpp`, and the problems of MBPP and MBPP+ as it asks them.

A base model is asked as by bigcode-evaluation-harness, a chat model as by lm-evaluation-harness.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import kdtool
from kdtool_measuring import Kind, read_and_hash, records_of
from kdtool_programs import EVALPLUS, EVALPLUS_NUMPY, Form, PassAtK, Problem, module_like

from kdtool_evaluator_mbpp._corpus import LICENCE, MbppProblems, prompt_of, split_of
from kdtool_evaluator_mbpp._corpus import Problem as Published


class MbppEvaluator(PassAtK):
    """Python functions to be written from a sentence and a test; scored by three tests each."""

    benchmark: ClassVar[str] = "mbpp"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "bigcode-evaluation-harness, task mbpp (there 15 samples at temperature 0.1)",
        "chat": "lm-evaluation-harness, task mbpp_instruct (there after three examples, at most 256 tokens)",
    }

    class Config(PassAtK.Config):
        """Settings of `mbpp`."""

        file: kdtool.RecipePath | None = kdtool.Field(default=None)
        """mbpp.jsonl or sanitized-mbpp.json, relative to the recipe; null reads the dataset from the Hub."""
        variant: Literal["full", "sanitized"] = "full"
        """On the Hub: all 974 problems, or the 427 that were checked by hand. Not used with `file`."""
        split: Literal["train", "validation", "test"] = "test"
        """Part of the problems; published scores are for `test`, the problems 11 to 510."""
        plus: kdtool.RecipePath | None = kdtool.Field(default=None)
        """MbppPlus-OriginFmt.jsonl, packed by gzip or not: 378 problems with some 35 times as many tests, all of them taken
        for every `split`; the measurement is called `mbpp+`. null takes MBPP."""

    config: Config

    def __init__(self, config: Config) -> None:
        if config.plus is not None:
            self.benchmark = "mbpp+"  # type: ignore[misc] # of this instance
            self.limits = EVALPLUS
            self.harness_packages = ("numpy",)
        super().__init__(config)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the file, or the dataset's commit.

        Raises:
            kdtool.UsageError: the file cannot be read.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        if self.config.plus is None:
            return self._problem_file.identity(offline=run.offline)
        return {"plus": read_and_hash(self.config.plus, "mbpp.plus")[1]}

    @property
    def licence_terms(self) -> kdtool.LicenceTerms:
        """Return the licence of the problems."""
        if self.config.plus is not None:
            return kdtool.LicenceTerms("Apache-2.0 AND CC-BY-4.0", url="https://github.com/evalplus/mbppplus_release")
        return LICENCE

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the split's problems by their numbers.

        Raises:
            kdtool.UsageError: a file cannot be read, or is in another form.
            kdtool.ServiceError: the Hub cannot be reached.
        """
        if self.config.plus is not None:
            return plus_problems(self.config.plus)
        published = self._problem_file.read(offline=run.offline)
        taken = [problem for problem in published if split_of(problem.number) == self.config.split]
        if not taken:
            raise kdtool.UsageError(
                f"mbpp.split: there are no problems in the split {self.config.split!r}; choose another split or file"
            )
        return [problem_of(problem) for problem in taken]

    @cached_property
    def _problem_file(self) -> MbppProblems:
        return MbppProblems(self.config.file, self.config.variant)


_STOP = ("\nclass", "\nassert", '\n"""', "\nprint", "\nif", "\n<|/", "\n```")
_INSTRUCTION = "You are an expert Python programmer, and here is your task:"
_NEEDED: Mapping[str, Kind] = {"task_id": "text or number", "code": "text", "prompt": "text", "test": "text"}
_EXPECTED = "MbppPlus-OriginFmt.jsonl of evalplus/mbppplus_release"
_ERRATUM = (
    "        exact_match = exp == (out is not None)\n",
    "        exact_match = exp == (out is not None)\n    assert exact_match\n",
)
"""In MBPP+ the tests of 737, 787 and 794, as published, compare and assert nothing, so that any program passes; EvalPlus
asserts what they compare."""


def problem_of(published: Published) -> Problem:
    """Return a problem with its own tests."""
    tests = "\n".join((published.setup, *published.tests))
    return _problem(
        f"mbpp/{published.number}", prompt_of(published), published.text, published.tests, published.code, tests
    )


def plus_problems(path: Path) -> Sequence[Problem]:
    """Return the problems of MBPP+.

    Raises:
        kdtool.UsageError: the file cannot be read, or is in another form.
    """
    return [_plus(record) for _, record in records_of(path, "mbpp.plus", _NEEDED, _EXPECTED)]


def _plus(record: Mapping[str, Any]) -> Problem:
    shown = _texts(record.get("test_list"))
    prompt = f'"""\n{record["prompt"]}\n{shown[0] if shown else ""}\n"""\n'
    tests = record["test"].replace(*_ERRATUM)
    return _problem(f"mbpp/{record['task_id']}", prompt, record["prompt"], shown, record["code"], tests)


def _problem(name: str, prompt: str, text: str, shown: Sequence[str], code: str, tests: str) -> Problem:
    listed = "\n".join(shown)
    asked = f"{_INSTRUCTION}\n{text}\nYour code should pass these tests:\n{listed}"
    module = module_like(code, tests, EVALPLUS_NUMPY if "numpy" in tests else "")
    return Problem(
        id=name,
        forms={"base": Form((), prompt, _STOP), "chat": Form((("user", asked),), "```python\n", ("```",))},
        continued=module,
        whole=module,
        solution=code,
    )


def _texts(value: Any) -> list[str]:
    """Return a list of tests, which some records hold as a Python literal."""
    if isinstance(value, str):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            return []
    return [test for test in value if isinstance(test, str)] if isinstance(value, list) else []
