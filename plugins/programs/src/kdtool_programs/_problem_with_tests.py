"""Examples of a corpus that include tests and a solution, as problems."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import kdtool

from kdtool_programs._solution import module_like
from kdtool_programs._task import Module

__all__ = ["ProblemWithTests", "problem_with_tests"]

_EXPECTED = (
    "expected problems in the format of the corpus mbpp: a prompt with its Python solution, and in `meta` the key `tests`, "
    "a JSON list of Python statements (optionally `setup`, code to run before them); name such a corpus"
)


@dataclass(frozen=True)
class ProblemWithTests:
    """An example with a prompt, its reference solution, and a function that puts a completion under the problem's tests."""

    example: kdtool.Example
    prompt: str
    solution: str
    module: Callable[[str], Module]


def problem_with_tests(example: kdtool.Example, key: str) -> ProblemWithTests:
    """Parse an example that has tests.

    The reference solution decides whether completions are whole modules or continue the prompt.

    Args:
        example: in the format of the corpus `mbpp`.
        key: the recipe's key that named its corpus, for messages.

    Raises:
        UsageError: the example lacks tests or a solution, is in another language, or its tests do not use its solution.
    """
    body = example.body
    if not isinstance(body, kdtool.Completion):
        raise _refusal(key, example, "is not a prompt with a completion")
    if example.language not in {"", "python"}:
        raise _refusal(key, example, f"is in {example.language}")
    tests = "\n".join((example.meta.get("setup", ""), *_tests(key, example)))
    for before in ("", body.prompt):
        with suppress(SyntaxError, ValueError):  # a ValueError is a null character, in Python 3.11
            made = module_like(before + body.completion, tests)
            if made("").names:
                return ProblemWithTests(example, body.prompt, body.completion, _prepend(before, made))
    raise _refusal(key, example, "has tests that use nothing of its solution, or one of the two does not parse")


def _prepend(before: str, made: Callable[[str], Module]) -> Callable[[str], Module]:
    return lambda completion: made(before + completion)


def _tests(key: str, example: kdtool.Example) -> list[str]:
    try:
        tests = json.loads(example.meta.get("tests", "[]"))
    except ValueError as error:
        raise _refusal(key, example, f"has tests that are not JSON ({error})") from None
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise _refusal(key, example, "has no tests")
    return tests


def _refusal(key: str, example: kdtool.Example, why: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"{key}: {example.id!r} of {example.source or 'the corpus'} {why}; {_EXPECTED}")
