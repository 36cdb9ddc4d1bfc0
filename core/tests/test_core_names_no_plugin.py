"""The core knows no plugin by name: what it does and says follows from what components declare."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import kdtool
import pytest
from kdtool._plugins.distributions import DEFAULTS, RECIPES

ROOT = Path(__file__).parents[2]
PROJECTS = sorted(ROOT.glob("*/*/pyproject.toml"))
SOURCES = sorted(Path(kdtool.__file__).parent.glob("**/*.py"))
OTHER = "answers data html jsonl length new pairs safetensors samples self standard teacher"
WORDS = {*get_args(kdtool.SignalKind), *OTHER.split()}
"""Names of plugins that are words of the contract, of English, or of file formats as well."""
ALLOWED = {
    *(("_cli/command_line.py", name) for name in ("init", "generate", "serve", "push", "sweep")),
    *(("_run/context.py", name) for name in ("kdtool-cloud", "remote")),
    ("_contract/data.py", "gpt"),
    ("_recipe/layers.py", "claims"),
    ("_text/terminal.py", "wandb"),
}
"""The commands that `--help` sorts, the package that an error about a remote store names, a role in ShareGPT's form, a
recipe's key that a command is named after, and a program whose printed commands are continued by a backslash."""


def plugins() -> set[str]:
    """Return the names of all plugins in this repository, and of their distributions."""
    found = set()
    for file in PROJECTS:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        found.add(project["name"])
        groups = project.get("entry-points", {})
        for group, names in groups.items():
            found.update(names if group.startswith("kdtool.") and group not in (DEFAULTS, RECIPES) else ())
    return found


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the texts of a module that are not documentation, with their lines."""
    bodies = [body for node in ast.walk(tree) if isinstance(body := getattr(node, "body", None), list)]
    documentation = {id(line.value) for body in bodies for line in body if isinstance(line, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.lineno, node.value


@pytest.mark.skipif(not PROJECTS, reason="the plugins lie in the repository")
def test_core_names_no_plugin() -> None:
    names = plugins() - WORDS
    assert {"causal-lm", "packed", "kdtool-report"} <= names
    found = []
    for file in SOURCES:
        where = file.relative_to(Path(kdtool.__file__).parent).as_posix()
        for line, text in texts(ast.parse(file.read_text(encoding="utf-8"))):
            named = set(re.findall(r"\w+(?:-\w+)*", text)) & names
            found += [f"{where}:{line} {name}" for name in sorted(named) if (where, name) not in ALLOWED]
    assert not found
