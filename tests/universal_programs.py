"""Programs that solve nothing: each answers every problem in the same wrong way."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import pytest
from kdtool_programs import Module, Problem, Sandbox, SandboxError, Task

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


def need_sandbox() -> None:
    """Skip the test where no sandbox can be opened."""
    try:
        Sandbox().__enter__().__exit__(None, None, None)
    except SandboxError as error:
        pytest.skip(f"no sandbox on this machine: {error}")
