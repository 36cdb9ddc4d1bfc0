"""The evaluator `livecodebench`, and its file: problems of contests in a window of dates, asked as LiveCodeBench asks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import kdtool
from kdtool_measuring import Kind, read_and_hash, records_of
from kdtool_programs import Form, Limits, PassAtK, Problem

from kdtool_evaluator_livecodebench._tests import LARGEST, Case, cases_of, method_program, text_program


class LiveCodeBench(PassAtK):
    """Programs for problems of contests, which read and print text or are methods; scored by all tests of a problem."""

    benchmark: ClassVar[str] = "livecodebench"
    harness: ClassVar[Mapping[str, str]] = {
        "base": "LiveCodeBench's for base models, with another example",
        "chat": "LiveCodeBench's generic prompt, in the model's chat template",
    }
    limits = Limits(60.0, 2**30)
    """For all tests of a problem together; LiveCodeBench allows 6 s for each."""
    harness_packages = ("numpy",)

    class Config(PassAtK.Config):
        """Settings of `livecodebench`."""

        file: kdtool.RecipePath
        """test.jsonl of livecodebench/code_generation_lite, or another file of this form, compressed with gzip or not,
        relative to the recipe."""
        after: date | None = None
        """Only problems of contests on this date (YYYY-MM-DD) or later, such as the end of a model's training text."""
        before: date | None = None
        """Only problems of contests before this date (YYYY-MM-DD)."""
        maximum_tokens: int = kdtool.Field(default=2000, ge=1, le=100_000)
        """Maximum tokens per answer; published scores allow 2,000."""

    config: Config

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        """Return the SHA-256 of the file.

        Raises:
            kdtool.UsageError: it cannot be read.
        """
        return {"problems": read_and_hash(self.config.file, "livecodebench.file")[1]}

    def problems(self, run: kdtool.RunInfo) -> Sequence[Problem]:
        """Return the problems of the contests in the window.

        Raises:
            kdtool.UsageError: the file cannot be read, is in another form, or has no problem in the window.
        """
        return self._contests.problems

    def benchmark_settings(self, problems: Sequence[Problem]) -> Mapping[str, str]:
        """Return the harness with the same prompts, the window of dates, and the problems that are left out."""
        window = [f"{name} {day}" for name in ("after", "before") if (day := getattr(self.config, name)) is not None]
        left_out = self._contests.left_out
        return {
            **super().benchmark_settings(problems),
            "contests": ", ".join(window) or "all",
            **({"left out": ", ".join(left_out)} if left_out else {}),
        }

    @cached_property
    def _contests(self) -> Contests:
        return read_contests(self.config.file, self.config.after, self.config.before)


_KEY = "livecodebench.file"
_EXPECTED = "test.jsonl of livecodebench/code_generation_lite"
_FIELDS = "question_id question_content contest_date starter_code public_test_cases private_test_cases metadata"
_NEEDED: Mapping[str, Kind] = dict.fromkeys(_FIELDS.split(), "text")
_STOP = ("###",)
_SYSTEM = (
    "You are an expert Python programmer. You will be given a question (problem specification) and will generate a correct "
    "Python program that matches the specification and passes all tests."
)
_METHOD = (
    "You will use the following starter code to write the solution to the problem and enclose your code within "
    "delimiters."
)
_TEXT = (
    "Read the inputs from stdin solve the problem and write the answer to stdout (do not directly test on the sample "
    "inputs). Enclose your code within delimiters as follows. Ensure that when the python program runs, it reads the "
    "inputs, runs the algorithm and writes output to STDOUT."
)
_METHOD_EXAMPLE = """\
### Question
Given a list of integers, return the sum of those that are even.

### Starter Code
class Solution:
    def sumOfEven(self, numbers: List[int]) -> int:

### Answer

class Solution:
    def sumOfEven(self, numbers: List[int]) -> int:
        return sum(number for number in numbers if number % 2 == 0)

"""
_TEXT_EXAMPLE = """\
### Question
The first line contains an integer N, the second line N integers. Print the sum of those that are even.

### Answer

n = int(input())
numbers = list(map(int, input().split()))
print(sum(number for number in numbers if number % 2 == 0))

"""


@dataclass(frozen=True)
class Contests:
    """Problems in the file's order, and notes on those that are too large for the sandbox."""

    problems: Sequence[Problem]
    left_out: Sequence[str]


def read_contests(file: Path, after: date | None, before: date | None) -> Contests:
    """Return the problems of contests from `after` on and before `before`; None does not bound them.

    Raises:
        kdtool.UsageError: the file cannot be read, is in another form, contains a problem twice, or none of these dates.
    """
    problems: dict[str, Problem] = {}
    left_out, dates = [], []
    for location, record in records_of(file, _KEY, _NEEDED, _EXPECTED):
        dates.append(_date(record["contest_date"], location))
        if (after is not None and dates[-1] < after) or (before is not None and dates[-1] >= before):
            continue
        name = record["question_id"]
        if name in problems:
            raise kdtool.UsageError(f"{location}: contains {name} a second time; give each problem once")
        if (size := sum(len(case.input) + len(case.output) for case in _cases(record, location))) > LARGEST:
            left_out.append(f"{name} ({size:,} characters of tests)")
        else:
            problems[name] = _problem(record, location)
    if not problems:
        raise kdtool.UsageError(
            f"{_KEY}: {file} has no problem of these dates: its contests are from {min(dates)} to {max(dates)}; set other "
            "dates by livecodebench.after and .before, or give another file"
        )
    return Contests(list(problems.values()), left_out)


def _date(text: str, location: str) -> date:
    try:
        return date.fromisoformat(text[:10])
    except ValueError as error:
        raise kdtool.UsageError(
            f"{location}: contest_date is {text[:40]!r}; expected a date as in {_EXPECTED}"
        ) from error


def _cases(record: Mapping[str, Any], location: str) -> Sequence[Case]:
    """Return public and private tests, which are unpacked again each time: all together may be gigabytes."""
    names = ("public_test_cases", "private_test_cases")
    cases = [case for name in names for case in cases_of(record[name], f"{location}: {name}")]
    if len({case.testtype for case in cases}) != 1:
        raise kdtool.UsageError(
            f"{location}: has no tests, or of both types; expected tests of type stdin or functional, as in {_EXPECTED}"
        )
    return cases


def _problem(record: Mapping[str, Any], location: str) -> Problem:
    judged = partial(_program, record, location, _method(record, location))
    content, starter = record["question_content"], record["starter_code"]
    example = _METHOD_EXAMPLE if starter else _TEXT_EXAMPLE
    shown = f"### Starter Code\n{starter}\n\n" if starter else ""
    form = f"{_METHOD}\n```python\n{starter}\n```" if starter else f"{_TEXT}\n```python\n# YOUR CODE HERE\n```"
    asked = (
        f"### Question:\n{content}\n\n### Format: {form}\n\n### Answer: (use the provided format with backticks)\n\n"
    )
    return Problem(
        id=record["question_id"],
        forms={
            "base": Form((), f"{example}### Question\n{content}\n\n{shown}### Answer\n\n", _STOP),
            "chat": Form((("system", _SYSTEM), ("user", asked)), "", ()),
        },
        continued=judged,
        whole=judged,
        solution="",
    )


def _method(record: Mapping[str, Any], location: str) -> str:
    """Return the name of the method to write; "" for a program that reads and prints."""
    if _cases(record, location)[0].testtype == "stdin":
        return ""
    try:
        name = json.loads(record["metadata"])["func_name"]
    except (ValueError, KeyError, TypeError):
        name = ""
    if not isinstance(name, str) or not name.isidentifier():
        raise kdtool.UsageError(f"{location}: metadata has no func_name; expected one for tests of type functional")
    return name


def _program(record: Mapping[str, Any], location: str, method: str, code: str) -> Any:
    cases = _cases(record, location)
    return method_program(code, method, cases) if method else text_program(code, cases)
