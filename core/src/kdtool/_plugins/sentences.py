"""A plugin's own sentence, the first line of its docstring, read from its source: listing imports no plugin."""

from __future__ import annotations

import ast
from importlib.machinery import SourceFileLoader
from importlib.util import find_spec
from pathlib import Path

from kdtool._text.terminal import escape

__all__ = ["sentence_of"]

_MOST_IMPORTS = 5
"""Longest chain of re-exports that is followed from module to module."""


def sentence_of(value: str) -> str:
    """Return the first line of the docstring of `module:name`, without its full stop; "" if it cannot be found."""
    module, _, name = value.partition(":")
    for _ in range(_MOST_IMPORTS):
        found = [node for file in _sources_of(module) for node in _find_definitions(file, name)]
        if not found:
            return ""
        if isinstance(found[0], ast.ClassDef | ast.FunctionDef):
            text = ast.get_docstring(found[0]) or ""
            return escape(text.partition("\n")[0].removesuffix("."))
        module, name = _resolve_import(found[0], module, name)
    return ""


def _sources_of(module: str) -> list[Path]:
    """Return the files of a module and its stub, the former first. Finding a top-level package imports nothing."""
    package, *rest = module.split(".")
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None or spec.origin is None or not isinstance(spec.loader, SourceFileLoader):
        return []
    path = Path(spec.origin)
    if rest:
        path = path.parent.joinpath(*rest)
        path = path / "__init__.py" if path.is_dir() else path.with_name(f"{path.name}.py")
    return [file for file in (path, path.with_suffix(".pyi")) if file.is_file()]


def _find_definitions(file: Path, name: str) -> list[ast.ClassDef | ast.FunctionDef | ast.ImportFrom]:
    """Return where a file defines or imports a name."""
    try:
        body = ast.parse(file.read_text(encoding="utf-8")).body
    except (OSError, SyntaxError, ValueError):
        return []
    return [
        node
        for node in body
        if (isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name)
        or (isinstance(node, ast.ImportFrom) and any(name == (one.asname or one.name) for one in node.names))
    ]


def _resolve_import(node: ast.ImportFrom, module: str, name: str) -> tuple[str, str]:
    """Return module and name of what an import gives."""
    (original,) = [one.name for one in node.names if name == (one.asname or one.name)]
    if not node.level:
        return node.module or "", original
    package = module.split(".")
    is_package = any(file.stem == "__init__" for file in _sources_of(module))
    above = package[: len(package) - node.level + is_package]
    return ".".join([*above, *([node.module] if node.module else [])]), original
