"""Programs that answer every problem alike pass none of it, or the problem is listed here with the reason."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from kdtool_evaluator_humaneval import HumanEval
from kdtool_evaluator_mbpp import MbppEvaluator
from kdtool_programs import Module, PassAtK, Problem, Sandbox, Task
from kdtool_testing import make_run
from kdtool_testing.sandbox import sandbox_is_there

DATA = Path(os.environ.get("KDTOOL_SHARED_DATA") or Path(__file__).resolve().parents[2] / "shared" / "data")
SUITES: Mapping[str, tuple[type[PassAtK], dict[str, Any], int]] = {
    "HumanEval": (HumanEval, {}, 164),
    "HumanEval+": (HumanEval, {"plus": DATA / "evalplus" / "HumanEvalPlus-OriginFmt.jsonl.gz"}, 164),
    "MBPP, test": (MbppEvaluator, {"file": DATA / "mbpp" / "mbpp.jsonl", "split": "test"}, 500),
    "MBPP, train": (MbppEvaluator, {"file": DATA / "mbpp" / "mbpp.jsonl", "split": "train"}, 374),
    "MBPP, validation": (MbppEvaluator, {"file": DATA / "mbpp" / "mbpp.jsonl", "split": "validation"}, 90),
    "sanitized MBPP, test": (MbppEvaluator, {"file": DATA / "mbpp" / "sanitized-mbpp.json", "split": "test"}, 257),
    "sanitized MBPP, train": (MbppEvaluator, {"file": DATA / "mbpp" / "sanitized-mbpp.json", "split": "train"}, 120),
    "sanitized MBPP, validation": (
        MbppEvaluator,
        {"file": DATA / "mbpp" / "sanitized-mbpp.json", "split": "validation"},
        43,
    ),
    "MBPP+": (MbppEvaluator, {"plus": DATA / "evalplus" / "MbppPlus-OriginFmt.jsonl.gz"}, 378),
}
KNOWN = {
    "mbpp/404": "the minimum of two numbers: in all tests it is the first",
    "mbpp/698": "a dict sorted by its values is equal to the dict",
    "mbpp/816": "a cleared tuple is (), so a program that returns () is right",
    "mbpp/847": "a copy of a list is equal to the list",
    "mbpp/899": "all tests expect True",
}
"""Tests of MBPP that some such program passes, as published: the score keeps them, as that of other harnesses does."""


_EQUAL = """
class Equal:
    def _yes(self, *others):
        return True
    __eq__ = __lt__ = __le__ = __gt__ = __ge__ = __contains__ = __bool__ = _yes
    def __ne__(self, other):
        return False
    def __hash__(self):
        return 0
    def __len__(self):
        return 1
    def __iter__(self):
        return iter([])
    def _self(self, *others):
        return self
    __abs__ = __sub__ = __rsub__ = __add__ = __radd__ = __mul__ = __getitem__ = _self
"""
_LYING = """
class Lying:
    def __init__(self, length):
        self.length = length
    def __len__(self):
        return self.length
    def __iter__(self):
        return iter([])
"""
_SIZE = "next((len(one) for one in args if hasattr(one, '__len__')), 2)"
_CLEARING = "    for one in args:\n        if hasattr(one, 'clear'):\n            one.clear()\n"
_PROGRAMS: Mapping[str, tuple[str, str]] = {
    **{value: ("", f"    return {value}") for value in ("None", "True", "False", "0", "1", "''", "[]", "()", "{}")},
    "NaN": ("", "    return float('nan')"),
    "infinity": ("", "    return float('inf')"),
    "the argument": ("", "    return args[0] if args else None"),
    "equals everything": (_EQUAL, "    return Equal()"),
    "lists what equals everything": (_EQUAL, f"    return [Equal()] * {_SIZE}"),
    "lies about its length": (_LYING, f"    return Lying({_SIZE})"),
    "clears its arguments": ("", f"{_CLEARING}    return 0"),
    "clears and returns its argument": ("", f"{_CLEARING}    return args[0] if args else 0"),
}


def collect_passed(problems: Iterable[Problem], seconds: float, memory: int) -> dict[str, set[str]]:
    """Return which programs pass each problem that any of them passes. All run in one sandbox."""
    tasks = [Task(name, module, seconds, memory) for one in problems for name, module in _modules(one)]
    found: dict[str, set[str]] = {}
    with Sandbox(workers=2) as sandbox:
        verdicts = list(sandbox.run(tasks))
    assert len(verdicts) == len(tasks) > 0
    for verdict in verdicts:
        if verdict.has_passed:
            problem, _, program = verdict.id.partition(": ")
            found.setdefault(problem, set()).add(program)
    return found


def _modules(problem: Problem) -> Iterator[tuple[str, Module]]:
    empty = problem.whole("")
    assert isinstance(empty, Module)
    for program, (before, body) in _PROGRAMS.items():
        functions = "".join(f"def {name}(*args, **more):\n{body}\n" for name in empty.names)
        module = problem.whole(f"{before}\n{functions}")
        assert isinstance(module, Module)
        yield f"{problem.id}: {program}", module


def passing(folder: Path, evaluator: PassAtK, count: int) -> dict[str, set[str]]:
    problems = evaluator.problems(make_run(folder))
    assert len(problems) == count
    return collect_passed(problems, evaluator.seconds, evaluator.limits.memory)


@pytest.mark.slow
@pytest.mark.skipif(not sandbox_is_there(), reason="no sandbox on this machine")
@pytest.mark.parametrize("suite", SUITES)
def test_such_programs_pass_no_published_problem(suite: str, tmp_path: Path) -> None:
    evaluator, settings, count = SUITES[suite]
    missing = [path for path in settings.values() if isinstance(path, Path) and not path.is_file()]
    if missing:
        pytest.skip(f"{missing[0]} is not here")
    found = passing(tmp_path, evaluator(evaluator.Config(**settings)), count)
    assert {name: programs for name, programs in found.items() if name not in KNOWN} == {}
