"""Tests that were written for a known solution, for other modules that claim to do the same."""

from __future__ import annotations

import ast
import dis
from collections.abc import Callable, Iterator
from types import CodeType

from kdtool_programs._task import Module

__all__ = ["module_like"]


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
    return used | (_of_functions(tests) - defined)


def _of_functions(code: CodeType) -> set[str]:
    """Return the global names that functions, classes and comprehensions within code read."""
    names: set[str] = set()
    for inner in (constant for constant in code.co_consts if isinstance(constant, CodeType)):
        read = (instruction.argval for instruction in dis.get_instructions(inner) if instruction.opname in _READING)
        names |= {*read} | _of_functions(inner)
    return names


_READING = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
