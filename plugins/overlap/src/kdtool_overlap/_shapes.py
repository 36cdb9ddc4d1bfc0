"""The shape of code: its tokens without the names that somebody chose, so that a renamed copy has the shape of its source.

White space, parentheses, braces, commas, semicolons and quotes do not count, since formatters add and remove them. A name
counts as the distance to its last occurrence, as in parameterised matching (Baker 1993); keywords, numbers and operators
count as they are. Comments are not recognised: what they contain is code like everything else.
"""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["GRAM", "are_names", "shape_hashes", "spans_of_tokens", "tokens_of"]

GRAM = 8
"""Tokens per n-gram of a shape."""

_KNOWN = 3
"""An n-gram with fewer tokens that are no names, or names that it has before, is as common in prose as in code."""

_TOKEN = re.compile(r"(?![bfruBFRU]{1,2}[\"'])\w+|[^\w\s(),;{}\"'`\\]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_FURTHER = "catch const extends false fn impl let mut null private protected public static throw throws true void"
_KEYWORDS = frozenset((*keyword.kwlist, *_FURTHER.split()))
"""Keywords of Python, Java, JavaScript, C++, Go and Rust, but for those that are names in code of another of them."""


def tokens_of(text: str) -> list[str]:
    """Return the tokens that count: names, keywords, numbers and operators, the latter one character each."""
    return _TOKEN.findall(text)


def spans_of_tokens(text: str, first: int, last: int) -> list[tuple[int, int]]:
    """Return start and end in the text of the tokens from `first` to before `last`."""
    return [found.span() for found in islice(_TOKEN.finditer(text), first, last)]


def are_names(tokens: Sequence[str]) -> NDArray[np.bool_]:
    """Return for each token whether it is a name and not a keyword, [len(tokens)]."""
    names = np.fromiter(map(str.isidentifier, tokens), np.bool_, len(tokens))
    return names & ~np.fromiter(map(_KEYWORDS.__contains__, tokens), np.bool_, len(tokens))


def shape_hashes(tokens: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return a hash of each n-gram's shape, and whether it counts, [len(tokens) − GRAM + 1] each or none.

    Hashes differ between processes, so never store them.
    """
    length = max(0, len(tokens) - GRAM + 1)
    hashes, known = np.zeros(length, np.uint64), np.zeros(length, np.int8)
    if not length:
        return hashes, known > 0
    own = np.fromiter(map(hash, tokens), np.int64, len(tokens))
    names = are_names(tokens)
    since = _since_last(own, names)
    own[names] = 0
    for offset in range(GRAM):
        part = slice(offset, offset + length)
        distance = np.where(since[part] <= offset, since[part], 0)
        hashes = hashes * _FACTOR + (own[part] + distance).view(np.uint64)
        known += ~names[part] | (distance > 0)
    return hashes, known >= _KNOWN


def _since_last(own: NDArray[np.int64], names: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return each name's distance to its last occurrence, 0 for first ones and for other tokens."""
    places = np.flatnonzero(names)
    places = places[np.argsort(own[places], kind="stable")]
    found = np.zeros(len(own), np.int64)
    again = own[places[1:]] == own[places[:-1]]
    found[places[1:][again]] = (places[1:] - places[:-1])[again]
    return found
