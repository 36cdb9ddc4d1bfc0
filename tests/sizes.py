"""Print the sizes of the house: code lines of the core by part, the public interface, and the number of packages.

    python tests/sizes.py

A code line is a line of a statement that is neither an import nor a docstring; blank lines and comments do not count.
"""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

from packages import ROOT, folders

CORE = ROOT / "core" / "src" / "kdtool"
IGNORED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def code_lines(file: Path) -> int:
    """Return the number of code lines in a Python file."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    left_out = {line for node in _not_code(tree) for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)}
    with file.open("rb") as source:
        tokens = [token for token in tokenize.tokenize(source.readline) if token.type not in IGNORED][1:]
    lines = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return len(lines - left_out)


def _not_code(tree: ast.Module) -> Iterator[ast.stmt]:
    """Yield imports, and docstrings of modules, classes, functions and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def raw_lines(folder: Path) -> int:
    """Return the number of lines in the Python files below a folder."""
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in folder.rglob("*.py"))


def sizes() -> dict[str, int]:
    """Return what is measured, by its name."""
    by_file = {file.relative_to(CORE): code_lines(file) for file in CORE.rglob("*.py")}
    parts = {
        part: sum(lines for file, lines in by_file.items() if file.parts[0] == part)
        for part in ("_contract", "_plugins")
    }
    return {
        "code lines of _contract": parts["_contract"],
        "code lines of _plugins": parts["_plugins"],
        "code lines of the rest of the core": sum(by_file.values()) - sum(parts.values()),
        "code lines that plugins see (_contract and _errors)": parts["_contract"] + by_file[Path("_errors.py")],
        "public names": len(_names("_plugin_interface")) + len(_names("_engine_interface")),
        "public names that plugins build on": len(_names("_plugin_interface")),
        "hooks": len(_hooks()),
        "raw lines of plugins/transformers": raw_lines(ROOT / "plugins" / "transformers" / "src"),
        "packages": len(folders()),
    }


def _names(interface: str) -> list[str]:
    """Return the public names that a module of the core re-exports."""
    return re.findall(
        r"^from .* as ([A-Za-z]\w*)$", (CORE / f"{interface}.py").read_text(encoding="utf-8"), re.MULTILINE
    )


def _hooks() -> set[str]:
    files = (ast.parse(file.read_text(encoding="utf-8")) for file in (CORE / "_contract").rglob("*.py"))
    functions = (node for tree in files for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {function.name for function in functions if function.name.startswith("kdtool_")}


if __name__ == "__main__":
    for name, count in sizes().items():
        print(f"{count:>7,}  {name}")
