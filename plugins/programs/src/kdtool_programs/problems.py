"""Problems of benchmarks and of corpora, and tests that judge any program for them.

Tests were often written for one solution: `module_like` applies them to other programs.
"""

from __future__ import annotations

import ast
import dis
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from types import CodeType
from typing import Literal, NamedTuple

import kdtool

from kdtool_programs.extraction import parse_python
from kdtool_programs.tasks import Module, Program


class Form(NamedTuple):
    """One form of prompt: a conversation (empty for base models), the beginning of the answer, and stop strings.

    `suffix` is the code after the answer (infilling); None continues the prompt.
    """

    turns: tuple[tuple[str, str], ...]
    prompt: str
    stop: tuple[str, ...]
    suffix: str | None = None


class Limits(NamedTuple):
    """Resource limits of a program: `seconds` and `memory` as in `kdtool_programs.Task`."""

    seconds: float
    memory: int


@dataclass(frozen=True)
class Problem:
    """One problem.

    `forms` are the forms of prompt, by `PassAtKConfig.form`. `continued` makes a program of code that continues the prompt,
    `whole` of code that is complete by itself. `solution` is the reference solution, for `continued`; "" if there is none.
    `language` is the sandbox's name for the programs' language.
    """

    id: str
    forms: Mapping[Literal["base", "chat"], Form]
    continued: Callable[[str], Module | Program]
    whole: Callable[[str], Module | Program]
    solution: str
    language: str = "python"


def digest_of(problems: Sequence[Problem], form: Literal["base", "chat"]) -> str:
    """Return a digest of the problems for a measurement's settings: 12 hex digits.

    It covers their ids, their prompts in this form, and the programs of an empty answer, which contain the tests.
    """
    digest = sha256()
    for problem in problems:
        programs = [_content_of_work(make("")) for make in (problem.continued, problem.whole)]
        asked = [part for part in problem.forms[form] if part is not None]
        digest.update(json.dumps([problem.id, asked, programs], sort_keys=True).encode())
    return digest.hexdigest()[:12]


def _content_of_work(work: Module | Program) -> object:
    """Return the machine-independent content of a program: its commands contain the toolchain's folders."""
    return [work.source, work.tests, work.names, work.helpers] if isinstance(work, Module) else dict(work.files)


EVALPLUS = Limits(90.0, 4 * 2**30)
"""EvalPlus allows 60 s for all inputs of a problem; the tests here also compute the expected outputs in this time."""
_EXPECTED_EXAMPLE = (
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
    tests = "\n".join((example.meta.get("setup", ""), *_tests_of(key, example)))
    for before in ("", body.prompt):
        with suppress(SyntaxError, ValueError):  # a ValueError is a null character, in Python 3.11
            made = module_like(before + body.completion, tests)
            if made("").names:
                return ProblemWithTests(example, body.prompt, body.completion, _prepend(before, made))
    raise _refusal(key, example, "has tests that use nothing of its solution, or one of the two does not parse")


def _prepend(before: str, made: Callable[[str], Module]) -> Callable[[str], Module]:
    return lambda completion: made(before + completion)


def _tests_of(key: str, example: kdtool.Example) -> list[str]:
    try:
        tests = json.loads(example.meta.get("tests", "[]"))
    except ValueError as error:
        raise _refusal(key, example, f"has tests that are not JSON ({error})") from None
    if not isinstance(tests, list) or not tests or not all(isinstance(test, str) for test in tests):
        raise _refusal(key, example, "has no tests")
    return tests


def _refusal(key: str, example: kdtool.Example, why: str) -> kdtool.UsageError:
    return kdtool.UsageError(f"{key}: {example.id!r} of {example.source or 'the corpus'} {why}; {_EXPECTED_EXAMPLE}")


def after(before: str, code: str) -> str:
    """Return one module of two parts; if the second is complete by itself, `from __future__` may begin it, too."""
    if "__future__" not in code or parse_python(code) is None:
        return before + code
    return f"{before}\nexec(compile({code!r}, '<candidate>', 'exec', dont_inherit=True))\n"


def module_like(solution: str, tests: str, helpers: str = "") -> Callable[[str], Module]:
    """Return what makes a `Module` of another source under the tests of a solution.

    Its `names` are what the solution defines at its top level and the tests use without having defined it themselves; the
    tests may use what it imports, too.

    Args:
        solution: a whole module that passes the tests.
        tests: Python source, as in `Module`.
        helpers: further helpers of the tests, as in `Module`.

    Raises:
        SyntaxError: solution or tests do not parse.
    """
    parsed = ast.parse(solution)
    names = tuple(_definitions(parsed, _used_names(compile(tests, "<tests>", "exec", dont_inherit=True))))
    imports = (
        ast.unparse(statement) for statement in parsed.body if isinstance(statement, ast.Import | ast.ImportFrom)
    )
    helpers = helpers + "\n".join(imports) + "\n"
    return lambda source: Module(source, tests, names, helpers)


def _definitions(solution: ast.Module, used: set[str]) -> Iterator[str]:
    """Yield functions, classes and assigned names of the solution that are used, in its order."""
    for statement in solution.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from {statement.name} & used
        elif isinstance(statement, ast.Assign):
            names = (node.id for target in statement.targets for node in ast.walk(target) if isinstance(node, ast.Name))
            yield from sorted(used & set(names))


def _used_names(tests: CodeType) -> set[str]:
    """Return the names that the tests use but do not define.

    Tests define a name from its first assignment on; in functions, which are called later, an assignment anywhere counts.
    Tests of EvalPlus include the reference and some of its helper functions.
    """
    used: set[str] = set()
    defined: set[str] = set()
    for instruction in dis.get_instructions(tests):
        if instruction.opname == "STORE_NAME":
            defined.add(instruction.argval)
        elif instruction.opname == "LOAD_NAME" and instruction.argval not in defined:
            used.add(instruction.argval)
    return used | (_names_in_functions(tests) - defined)


def _names_in_functions(code: CodeType) -> set[str]:
    """Return the global names that functions, classes and comprehensions within code read."""
    names: set[str] = set()
    for inner in (constant for constant in code.co_consts if isinstance(constant, CodeType)):
        read = (instruction.argval for instruction in dis.get_instructions(inner) if instruction.opname in _READING)
        names |= {*read} | _names_in_functions(inner)
    return names


_READING = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ALLCLOSE = """\
def _flat(value):
    if type(value) not in (list, tuple):
        if type(value) not in (bool, int, float, complex):
            raise TypeError(f"{value!r} is not a number that numpy calculates with")
        return (), [value]
    if any(type(one) is int and not -(2**63) <= one < 2**64 for one in value):
        raise TypeError("numpy does not calculate with lists of such large numbers")
    parts = [_flat(one) for one in value]
    if len({shape for shape, _ in parts}) > 1:
        raise ValueError("a list of lists that differ in length")
    return (len(value), *(parts[0][0] if parts else ())), [number for _, own in parts for number in own]


def allclose(out, exp, rtol=1e-05, atol=1e-08):
    if type(out) is not type(exp):
        return False
    (shape, found), (expected_shape, expected) = _flat(out), _flat(exp)
    return shape == expected_shape and all(
        one == other or (abs(other) < float("inf") and abs(one - other) <= atol + rtol * abs(other))
        for one, other in zip(found, expected)
    )
"""
"""Source of `allclose`, numpy's function of that name under EvalPlus' rules: both values have the same type, and infinities
and NaN are close only to an equal value. Shapes are equal; numpy would broadcast."""
EVALPLUS_NUMPY = f"""\
import sys
import types

{_ALLCLOSE}

numpy = types.ModuleType("numpy")
numpy.allclose, numpy.ndarray = allclose, type("ndarray", (), {{}})
numpy.float64 = numpy.float32 = float
sys.modules["numpy"] = numpy
"""
"""Helpers for tests of EvalPlus, which compare floats by numpy's `allclose` and use nothing else of it. This module
replaces numpy on every machine, so that verdicts do not depend on installed packages. It makes the checks of EvalPlus' own
scorer, the same type and the same length, which the published tests lack."""
