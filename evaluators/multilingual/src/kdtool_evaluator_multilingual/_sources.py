"""Changes to a program's text that make answers and tests fit together, for every dataset."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["close_function", "end_macros", "go_program", "imports_of", "without_main"]

_IMPORTS = re.compile(r"^(?:#include|import|using)\b.*$", re.MULTILINE)
_MACRO = re.compile(r"^[ \t]*#[ \t]*define[ \t]+(\w+)", re.MULTILINE)
_GO_PACKAGE = re.compile(r"^package\s+\w+[ \t]*$", re.MULTILINE)
_GO_IMPORT = re.compile(r"^import\s*(?:\(([^)]*)\)|(.+)$)", re.MULTILINE)
_GO_COMMENT = re.compile(r"//.*$", re.MULTILINE)
_GO_PACKAGES = ("math", "strings", "fmt", "strconv", "time", "bytes", "regexp", "sort", "math/rand", "crypto/md5")
"""Packages that CodeGeeX imports for an answer that uses them (codegeex/benchmark/utils.py, IMPORT_HELPER)."""


def close_function(code: str, closing: Sequence[str]) -> str:
    """Return the code that continues an open function, with the closing lines if a stop string cut them.

    Braces are counted as CodeGeeX counts them, also in strings and comments; one at the beginning of a line ends it all.

    Args:
        code: as it was generated.
        closing: the lines that close the function and the blocks around it, innermost first.
    """
    if re.search(r"^\}", code, re.MULTILINE):
        return code
    still_open = len(closing) + code.count("{") - code.count("}")
    return "\n".join((code, *closing[len(closing) - min(max(still_open, 0), len(closing)) :], ""))


def end_macros(code: str) -> str:
    """Return a C++ program with its macros undefined at the end, so that they do not apply to its tests."""
    return "\n".join((code, *(f"#undef {name}" for name in _MACRO.findall(code)), ""))


def imports_of(prompt: str) -> str:
    """Return the lines of a prompt that import or include."""
    return "".join(f"{line}\n" for line in _IMPORTS.findall(prompt))


def without_main(code: str) -> str:
    """Return a whole program with another name for its `main`: the tests bring their own."""
    return re.sub(r"\bmain(?=\s*\()", "main_of_the_answer", code)


def go_program(setup: str, prompt: str, code: str) -> str:
    """Return a Go program without its tests: Go wants one package clause, and imports that are all used.

    Args:
        setup: package clause and imports of the tests.
        prompt: the code between them and the answer.
        code: an answer, with or without imports.
    """
    imported = [
        spec.strip() for match in _GO_IMPORT.findall(code) for spec in "".join(match).splitlines() if spec.strip()
    ]
    code = _GO_IMPORT.sub("", _GO_PACKAGE.sub("", code))
    used = _GO_COMMENT.sub("", code)
    wanted = dict.fromkeys([*imported, *(f'"{package}"' for package in _GO_PACKAGES)])
    imports = [spec for spec in wanted if spec not in setup and re.search(rf"\b{_go_name(spec)}\.", used)]
    return "\n".join((setup, *(f"import {spec}" for spec in imports), prompt + code))


def _go_name(imported: str) -> str:
    """Return the name of a package in a program: the alias of its import, or the end of its path."""
    given, _, path = imported.rpartition(" ")
    return re.escape(given or path.strip('"').rpartition("/")[2])
