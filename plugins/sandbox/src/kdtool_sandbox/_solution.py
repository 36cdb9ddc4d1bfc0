"""Tests that were written for a known solution, for other modules that claim to do the same."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

from kdtool_sandbox._task import Module

__all__ = ["module_like"]


def module_like(solution: str, tests: str, helpers: str = "") -> Callable[[str], Module]:
    """Return what makes a `Module` of another source under the tests of a solution.

    Its `names` are what the solution defines at its top level and the tests use; the tests may use what it imports, too.

    Args:
        solution: a whole module that passes the tests.
        tests: Python source, as in `Module`.
        helpers: further helpers of the tests, as in `Module`.

    Raises:
        SyntaxError: solution or tests do not parse.
    """
    parsed = ast.parse(solution)
    names = tuple(_defined_and_used(parsed, ast.parse(tests)))
    imports = (ast.unparse(one) for one in parsed.body if isinstance(one, ast.Import | ast.ImportFrom))
    helpers = helpers + "\n".join(imports) + "\n"
    return lambda source: Module(source, tests, names, helpers)


def _defined_and_used(solution: ast.Module, tests: ast.Module) -> Iterator[str]:
    """Yield functions, classes and assigned names of the solution that the tests name, in its order."""
    used = _names(tests)
    for statement in solution.body:
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from {statement.name} & used
        elif isinstance(statement, ast.Assign):
            yield from sorted(used & {name for target in statement.targets for name in _names(target)})


def _names(tree: ast.AST) -> set[str]:
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
