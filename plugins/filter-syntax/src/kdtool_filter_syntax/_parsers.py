"""Parse code: Python by its own compiler, other languages by tree-sitter, with a grammar from a wheel for each."""

from __future__ import annotations

import re
import warnings
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Literal, get_args

if TYPE_CHECKING:
    from tree_sitter import Parser

__all__ = ["LANGUAGES", "Language", "language_of", "parses"]

_GRAMMARS = {
    "cpp": "tree_sitter_cpp",
    "go": "tree_sitter_go",
    "java": "tree_sitter_java",
    "javascript": "tree_sitter_javascript",
    "rust": "tree_sitter_rust",
}
Language = Literal["python", "cpp", "go", "java", "javascript", "rust"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
"""Languages that can be checked."""
_ALIASES = {
    "c++": "cpp",
    "cc": "cpp",
    "cxx": "cpp",
    "golang": "go",
    "js": "javascript",
    "jsx": "javascript",
    "node": "javascript",
    "py": "python",
    "python3": "python",
    "rs": "rust",
}


def language_of(name: str) -> str:
    """Return the name in `LANGUAGES` of a language or its abbreviation, such as `py` or `C++`; "" for others."""
    lower = name.strip().lower()
    language = _ALIASES.get(lower, lower)
    return language if language in LANGUAGES else ""


def parses(code: str, language: str) -> bool:
    """Return whether code parses in one of `LANGUAGES`; nothing is executed."""
    if language == "python":
        return _is_python(code)
    if language == "cpp":  # tree-sitter-cpp 0.23 rejects typeid(int), but accepts sizeof for types and values
        code = re.sub(r"\btypeid\b", "sizeof", code)
    try:
        tree = _parser(language).parse(code.encode())
    except UnicodeEncodeError:
        return False
    return not tree.root_node.has_error


def _is_python(code: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # warnings about invalid escapes, and about `is` with literals
        try:
            compile(code, "<example>", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError, MemoryError, OverflowError):
            return False  # a null character is a ValueError in Python 3.11; nesting too deep a RecursionError or MemoryError
    return True


@cache
def _parser(language: str) -> Parser:
    import tree_sitter

    return tree_sitter.Parser(tree_sitter.Language(import_module(_GRAMMARS[language]).language()))
