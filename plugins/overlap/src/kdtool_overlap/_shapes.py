"""The shape of code: its tokens without the names that somebody chose, so that a renamed copy has the shape of its source.

White space, parentheses, braces, commas, semicolons and quotes do not count, since formatters add and remove them. A name
counts as the distance to its last occurrence, as in parameterised matching (Baker 1993); keywords, numbers and operators
count as they are. Comments are not recognised: what they contain is code like everything else.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from itertools import islice, repeat
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GRAM", "NAME", "OPERATOR", "kinds_of", "shape_hashes", "spans_of_tokens", "tokens_of"]

GRAM = 8
"""Tokens per n-gram of a shape."""

_KNOWN = 3
"""An n-gram counts from this number of tokens that are not names, or that repeat one of its names; others occur in prose."""

_OPERATORS = r"!#$%&*+-./:<=>?@[]^|~"
_TOKEN = re.compile(rf"(?![bfruBFRU]{{1,2}}[\"'])\w+|[{re.escape(_OPERATORS)}]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FURTHER = "catch const extends false fn impl let mut null private protected public static throw throws true void"
_KEYWORDS = frozenset((*keyword.kwlist, *_FURTHER.split()))
"""Keywords of Python, Java, JavaScript, C++, Go and Rust, except those that are names in another of them."""

NAME, KEYWORD, OPERATOR, NUMBER = range(4)
"""Kinds of tokens."""

_KINDS = dict.fromkeys(_KEYWORDS, KEYWORD) | dict.fromkeys(_OPERATORS, OPERATOR)


def tokens_of(text: str) -> list[str]:
    """Return the tokens that count: names, keywords, numbers and operators, the latter one character each."""
    return _TOKEN.findall(text)


def spans_of_tokens(text: str, first: int, last: int) -> list[tuple[int, int]]:
    """Return start and end in the text of the tokens from `first` to before `last`."""
    return [match.span() for match in islice(_TOKEN.finditer(text), first, last)]


def kinds_of(tokens: Sequence[str]) -> NDArray[np.int8]:
    """Return the kind of each token, [len(tokens)]."""
    kinds = np.fromiter(map(_KINDS.get, tokens, repeat(NAME)), np.int8, len(tokens))
    kinds[(kinds == NAME) & ~np.fromiter(map(str.isidentifier, tokens), np.bool_, len(tokens))] = NUMBER
    return kinds


def shape_hashes(tokens: Sequence[str], kinds: NDArray[np.int8]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return a hash of each n-gram's shape, and whether it counts, [len(tokens) − GRAM + 1] each or none.

    Hashes differ between processes, so never store them.
    """
    length = max(0, len(tokens) - GRAM + 1)
    hashes, known = np.zeros(length, np.uint64), np.zeros(length, np.int8)
    if not length:
        return hashes, known > 0
    token_hashes = np.fromiter(map(hash, tokens), np.int64, len(tokens))
    names = kinds == NAME
    since = np.zeros(len(token_hashes), np.int64)
    for distance in range(GRAM - 1, 0, -1):
        since[distance:][names[distance:] & (token_hashes[distance:] == token_hashes[:-distance])] = distance
    token_hashes[names] = 0
    for offset in range(GRAM):
        part = slice(offset, offset + length)
        inside = since[part] * (since[part] <= offset)
        hashes = hashes * _FACTOR + (token_hashes[part] + inside).view(np.uint64)
        known += ~names[part] | (inside > 0)
    return hashes, known >= _KNOWN
