"""MBPP's and MBPP+'s problems, asked as bigcode-evaluation-harness asks a base model, and as lm-evaluation-harness chats."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kdtool_measuring import Kind, records_of
from kdtool_programs import EVALPLUS_NUMPY, Form, Problem, module_like

from kdtool_mbpp._published import Problem as Published
from kdtool_mbpp._published import prompt_of

__all__ = ["plus_problems", "problem_of"]

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
