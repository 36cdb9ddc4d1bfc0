"""Index the n-grams of a few texts, and look up long texts in it as they stream by.

Only the few texts are in memory, with 24 bytes per n-gram: its hash, its text, its place. Hash matches are verified word by
word.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["NGramIndex", "Occurrence"]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no word is lost by multiplication modulo 2⁶⁴."""


class Occurrence(NamedTuple):
    """An n-gram of an indexed text in another one: the text's index, and the position of the first word in each."""

    text: int
    start: int
    place: int


class NGramIndex:
    """Finds the n-grams of `texts` in other texts."""

    def __init__(self, texts: Sequence[list[str]], n: int, places: Sequence[Sequence[int]] | None = None) -> None:
        """Index the texts.

        Args:
            texts: lists of words.
            n: words per n-gram, from 1.
            places: for each text, the positions of the n-grams to index; None indexes all.
        """
        self.n = n
        self._words = texts
        hashes = [_hashes(words, n) for words in texts]
        every = [range(len(own)) for own in hashes]
        chosen = [np.array(own, np.int64) for own in (every if places is None else places)]
        keys = np.concatenate([np.zeros(0, np.uint64), *(own[at] for own, at in zip(hashes, chosen, strict=True))])
        order = np.argsort(keys, kind="stable")
        self._keys = keys[order]
        self._numbers = np.repeat(np.arange(len(texts)), [len(at) for at in chosen])[order]
        self._starts = np.concatenate([np.zeros(0, np.int64), *chosen])[order]

    def occurrences(self, words: list[str]) -> Iterator[Occurrence]:
        """Yield the occurrences of indexed n-grams in `words`, in order."""
        hashes = _hashes(words, self.n)
        first = np.searchsorted(self._keys, hashes)
        inside = np.flatnonzero(first < len(self._keys))
        for place in inside[self._keys[first[inside]] == hashes[inside]].tolist():
            gram = words[place : place + self.n]
            last = np.searchsorted(self._keys, hashes[place], "right")
            for entry in range(first[place], last):
                text, start = int(self._numbers[entry]), int(self._starts[entry])
                if self._words[text][start : start + self.n] == gram:
                    yield Occurrence(text, start, place)


def _hashes(words: Sequence[str], n: int) -> NDArray[np.uint64]:
    """Return a hash of each n-gram, [len(words) − n + 1] or none.

    A polynomial over Python's own hashes of the words. These differ between processes, so never store it.
    """
    own = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    found = np.zeros(max(0, len(own) - n + 1), np.uint64)
    for offset in range(n if len(found) else 0):
        found = found * _FACTOR + own[offset : offset + len(found)]
    return found
