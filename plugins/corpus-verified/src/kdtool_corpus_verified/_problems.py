"""Problems: examples of another corpus that include tests and a solution."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_programs import Module

__all__ = ["Problem", "problem_of"]

_EXPECTED = (
    "expected problems in the format of the corpus mbpp: a prompt with its Python solution, and in `meta` the key `tests`, "
    "a JSON list of Python statements (optionally `setup`, code to run before them); name such a corpus"
)


@dataclass(frozen=True)
class Problem:
    """A prompt, its reference solution, and a function that puts a completion under the problem's tests."""

    example: kdtool.Example
    prompt: str
    solution: str
    module: Callable[[str], Module]


def problem_of(example: kdtool.Example) -> Problem:
    """Parse an example as a problem.

    The reference solution decides whether completions are whole modules or continue the prompt.

    Raises:
        UsageError: the example lacks tests or a solution, is in another language, or its tests do not use its solution.
    """
    from kdtool_programs import module_like

    body = example.body
    if not isinstance(body, kdtool.Completion):
        raise _refusal(example, "is not a prompt with a completion")
    if example.language not in {"", "python"}:
        raise _refusal(example, f"is in {example.language}")
    tests = "\n".join((example.meta.get("setup", ""), *_tests(example)))
    for before in ("", body.prompt):
        with suppress(SyntaxError, ValueError):  # a ValueError is a null character, in Python 3.11
            made = module_like(before + body.completion, tests)
            if made("").names:
                return Problem(example, body.prompt, body.completion, _prepend(before, made))
    raise _refusal(example, "has tests that use nothing of its solution, or one of the two does not parse")


def _prepend(before: str, made: Callable[[str], Module]) -> Callable[[str], Module]:
    return lambda completion: made(before + completion)


def _tests(example: kdtool.Example) -> list[str]:
    try:
        tests = json.loads(example.meta.get("tests", "[]"))
    except ValueError as error:
        raise _refusal(example, f"has tests that are not JSON ({error})") from None
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise _refusal(example, "has no tests")
    return tests


def _refusal(example: kdtool.Example, why: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"verified.corpus: {example.id!r} of {example.source or 'the corpus'} {why}; {_EXPECTED}")
