"""Break a function in one place, for the form `repair`: what mutation testing does to find weak tests."""

from __future__ import annotations

import io
import tokenize
import warnings
from zlib import crc32

__all__ = ["break_function"]

_SWAPPED = {
    "==": "!=", "!=": "==", "<": "<=", "<=": "<", ">": ">=", ">=": ">", "+": "-", "-": "+", "+=": "-=", "-=": "+=",
    "and": "or", "or": "and", "True": "False", "False": "True", "min": "max", "max": "min", "any": "all", "all": "any",
    "break": "continue", "continue": "break", "append": "extend", "0": "1", "1": "0", "is": "is not", "in": "not in",
}  # fmt: skip
"""Tokens with those that replace them: another meaning, of the same form."""


def break_function(function: str) -> str | None:
    """Return the source of a function with one token swapped, always the same one; None if it has none to swap."""
    lines = function.splitlines(keepends=True)
    places = [
        token
        for token in tokenize.generate_tokens(io.StringIO(function).readline)
        if token.type in {tokenize.OP, tokenize.NAME, tokenize.NUMBER} and token.string in _SWAPPED
    ]
    first = crc32(function.encode("utf-8"))
    for number in range(len(places)):
        token = places[(first + number) % len(places)]
        row, (begin, end) = token.start[0] - 1, (token.start[1], token.end[1])
        changed = lines[row][:begin] + _SWAPPED[token.string] + lines[row][end:]
        broken = "".join([*lines[:row], changed, *lines[row + 1 :]])
        if _is_python(broken):
            return broken
    return None


def _is_python(text: str) -> bool:
    """Return whether a function compiles: `for x not in y` does not even parse, `break` outside a loop does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            compile(text, "function", "exec", dont_inherit=True)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True
