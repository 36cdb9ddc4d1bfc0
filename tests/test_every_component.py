"""Every component and command that the repository's packages register is held to the suite of its kind."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import kdtool_testing
import pytest
from kdtool._plugins.registry import GROUPS, entries_by_name
from kdtool_testing.suite import OfferedConformance

ROOT = Path(__file__).resolve().parent.parent
SUITES: dict[str, type[OfferedConformance]] = {
    name: getattr(kdtool_testing, name) for name in kdtool_testing.__all__ if name.endswith("Conformance")
}


def registered() -> list[tuple[str, str, Path]]:
    """Return kind, name and folder of all that the packages' metadata registers."""
    kinds = {group: kind for kind, group in GROUPS.items()}
    found = []
    for path in sorted((*ROOT.glob("*/pyproject.toml"), *ROOT.glob("*/*/pyproject.toml"))):
        groups = tomllib.loads(path.read_text(encoding="utf-8"))["project"].get("entry-points", {})
        found += [
            (kinds[group], name, path.parent) for group, points in groups.items() if group in kinds for name in points
        ]
    return found


@cache
def bound(folder: Path) -> frozenset[tuple[str, str]]:
    """Return the kinds of suites that a package's test classes inherit, by one another too, with their entry points."""
    bodies = [ast.parse(path.read_text(encoding="utf-8")).body for path in sorted(folder.glob("tests/**/*.py"))]
    nodes = [node for body in bodies for node in body if isinstance(node, ast.ClassDef)]
    classes, found = {node.name: node for node in nodes}, set()
    for node in nodes:
        line = list(_line(node, classes))
        names = [ast.unparse(base) for each in line for base in each.bases]
        suites = [SUITES[base] for base in names if base in SUITES]
        points = [_text(entry) for each in line for entry in each.body if _is_entry_point(entry)]
        if node.name.startswith("Test") and suites and points:
            found.add((suites[0].kind, points[0]))
    return frozenset(found)


REGISTERED = registered()


def test_there_are_components_of_most_kinds_and_none_is_forgotten() -> None:
    assert len(REGISTERED) > 20
    assert len({kind for kind, _, _ in REGISTERED}) > 10
    for kind, name, folder in REGISTERED:
        assert name in entries_by_name(kind), f"{folder.relative_to(ROOT)} is not installed: run bootstrap.py"


@pytest.mark.parametrize(("kind", "name", "folder"), REGISTERED, ids=[f"{kind}-{name}" for kind, name, _ in REGISTERED])
def test_it_is_held_to_the_suite_of_its_kind(kind: str, name: str, folder: Path) -> None:
    wanted = [suite for suite, found in SUITES.items() if found.kind == kind]
    assert (kind, name) in bound(folder), (
        f"no test class in {folder.relative_to(ROOT)}/tests inherits {' or '.join(wanted)} for {name!r}"
    )


def test_every_kind_has_a_suite() -> None:
    assert {suite.kind for suite in SUITES.values()} - {""} == set(GROUPS)


def _line(node: ast.ClassDef, classes: dict[str, ast.ClassDef]) -> Iterator[ast.ClassDef]:
    yield node
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            yield from _line(classes[base.id], classes)


def _is_entry_point(entry: ast.stmt) -> bool:
    return isinstance(entry, ast.Assign) and [ast.unparse(target) for target in entry.targets] == ["entry_point"]


def _text(entry: ast.stmt) -> str:
    assert isinstance(entry, ast.Assign)
    return str(ast.literal_eval(entry.value))
