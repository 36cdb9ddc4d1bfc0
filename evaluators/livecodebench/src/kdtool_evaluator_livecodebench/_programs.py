"""Programs that judge an answer: the answer runs in one process, and what it returned is compared in another.

Comparisons are those of lcb_runner/evaluation/testing_util.py in LiveCodeBench/LiveCodeBench.
"""

from __future__ import annotations

from collections.abc import Sequence

from kdtool_programs import Module

from kdtool_evaluator_livecodebench._tests import Case

__all__ = ["method_program", "text_program"]

_NAME = "answer_to"
_STARS = (
    "string", "re", "datetime", "collections", "heapq", "bisect", "copy", "math", "random", "statistics", "itertools",
    "functools", "operator", "io", "sys", "json", "builtins", "typing",
)  # fmt: skip
_PRELUDE = "".join(
    [
        *(f"from {name} import *\n" for name in _STARS),
        *(f"import {name}\n" for name in _STARS if name not in ("builtins", "typing")),
        "sys.setrecursionlimit(50000)\n",
    ]
)
"""Names that an answer may use without importing them, as in LiveCodeBench."""
_METHOD = """

def {name}(arguments):
    return getattr(Solution(), {method!r})(*arguments) if "Solution" in globals() else {method}(*arguments)
"""
_METHOD_TESTS = """\
import json

for given, expected in {cases!r}:
    found = {name}([json.loads(line) for line in given.split("\\n")])
    assert (list(found) if isinstance(found, tuple) else found) == json.loads(expected), "wrong answer"
"""
_TEXT = """\
import builtins
import io
import sys

_program = compile({code!r}, "<answer>", "exec", dont_inherit=True)


class _Kept(io.BytesIO):
    def close(self):
        pass


def {name}(text):
    printed, real = _Kept(), (sys.stdin, sys.stdout, builtins.open)
    sys.stdin = io.TextIOWrapper(io.BytesIO(text.encode()), "utf-8")
    sys.stdout = io.TextIOWrapper(printed, "utf-8", write_through=True)
    builtins.open = lambda file, *rest, **named: sys.stdin if file == 0 else real[2](file, *rest, **named)
    try:
        exec(_program, {{"__name__": "__main__"}})
    except SystemExit:
        pass
    finally:
        sys.stdin, sys.stdout, builtins.open = real
    return printed.getvalue().decode("utf-8", "replace")
"""
_TEXT_TESTS = """\
from decimal import Decimal


def lines(text):
    return [line.strip() for line in text.strip().split("\\n")]


def numbers(line):
    try:
        return [Decimal(part) for part in line.split()]
    except ArithmeticError:
        return None


def same(found, expected):
    return found == expected or (numbers(found) is not None and numbers(found) == numbers(expected))


for given, expected in {cases!r}:
    found, right = lines({name}(given)), lines(expected)
    assert len(found) == len(right), "wrong number of lines"
    assert all(map(same, found, right)), "wrong answer"
"""


def method_program(code: str, method: str, cases: Sequence[Case]) -> Module:
    """Return a program that calls a method of the answer's `Solution`, or a function, with the arguments of each test."""
    source = f"{_PRELUDE}\n{code}\n{_METHOD.format(name=_NAME, method=method)}"
    return Module(source, _METHOD_TESTS.format(name=_NAME, cases=_pairs(cases)), (_NAME,))


def text_program(code: str, cases: Sequence[Case]) -> Module:
    """Return a program that runs the answer with the input of each test, and compares what it prints."""
    source = _TEXT.format(name=_NAME, code=_PRELUDE + code)
    return Module(source, _TEXT_TESTS.format(name=_NAME, cases=_pairs(cases)), (_NAME,))


def _pairs(cases: Sequence[Case]) -> list[tuple[str, str]]:
    return [(case.input, case.output) for case in cases]
