"""Words of texts, an index of the n-grams of a few texts, and the longest copies of these in others.

Words are independent of tokenizers, so that texts compare alike for every model. Long texts are looked up as they stream by:
only the few texts are in memory, with 24 bytes per n-gram: its hash, its text, its place. Hash matches are verified word by
word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import kdtool
import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = re.compile(r"\w+")
_NAME = re.compile(r"[^\W\d]\w")


def words_of(text: str) -> list[str]:
    """Return names, keywords and numbers, without the punctuation between them.

    GPT-3's n-grams drop punctuation, too (arXiv 2005.14165, appendix C): code is full of signs that carry little
    information, and ten tokens in a row would soon be alike.
    """
    return _WORD.findall(text)


def whole_text_of(example: kdtool.Example) -> str:
    """Return all parts of an example, including rejected answers, since losses train on them, too."""
    body = example.body
    rejected = (body.rejected,) if isinstance(body, kdtool.Preference) else ()
    return "\n".join((*kdtool.parts_of(body), *rejected))


def words_of_example(example: kdtool.Example) -> list[str]:
    """Return the words of `whole_text_of` an example."""
    return words_of(whole_text_of(example))


def spans_of(text: str) -> list[tuple[int, int]]:
    """Return the start and end of each word of `words_of` in the text."""
    return [match.span() for match in _WORD.finditer(text)]


def is_name(word: str) -> bool:
    """Return whether a word has at least two characters and does not begin with a digit."""
    return _NAME.match(word) is not None


_FACTOR = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that no word is lost by multiplication modulo 2⁶⁴."""
_FILTERED = np.uint64(44)
"""Low bits of a hash that the filter ignores."""


class Occurrence(NamedTuple):
    """An n-gram of an indexed text in another one: the text's index, and the position of the first word in each."""

    text: int
    start: int
    place: int


class HashTable:
    """Finds hashes among a few: a filter of 2²⁰ entries spares nearly all others the search."""

    def __init__(self, keys: NDArray[np.uint64]) -> None:
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        self._seen = np.zeros(1 << 20, np.bool_)
        self._seen[keys >> _FILTERED] = True

    def matches(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of equal hashes and keys, [matches] each, in the order of the hashes."""
        places = np.flatnonzero(self._seen[hashes >> _FILTERED])
        first, last = (np.searchsorted(self._keys, hashes[places], side) for side in ("left", "right"))
        counts = last - first
        entries = np.repeat(last - np.cumsum(counts), counts) + np.arange(counts.sum())
        return np.repeat(places, counts), self._order[entries]


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
        every = [range(len(text_hashes)) for text_hashes in hashes]
        chosen = [np.array(starts, np.int64) for starts in (every if places is None else places)]
        keys = [text_hashes[starts] for text_hashes, starts in zip(hashes, chosen, strict=True)]
        self._table = HashTable(np.concatenate([np.zeros(0, np.uint64), *keys]))
        self._numbers = np.repeat(np.arange(len(texts)), [len(at) for at in chosen])
        self._starts = np.concatenate([np.zeros(0, np.int64), *chosen])

    def occurrences(self, words: list[str]) -> Iterator[Occurrence]:
        """Yield the occurrences of indexed n-grams in `words`, in order."""
        places, entries = self._table.matches(_hashes(words, self.n))
        for position, entry in zip(places.tolist(), entries.tolist(), strict=True):
            text, start = int(self._numbers[entry]), int(self._starts[entry])
            if self._words[text][start : start + self.n] == words[position : position + self.n]:
                yield Occurrence(text, start, position)


def _hashes(words: Sequence[str], n: int) -> NDArray[np.uint64]:
    """Return a hash of each n-gram, [len(words) − n + 1] or none.

    A polynomial over Python's own hashes of the words. These differ between processes, so never store it.
    """
    word_hashes = np.fromiter(map(hash, words), np.int64, len(words)).view(np.uint64)
    hashes = np.zeros(max(0, len(word_hashes) - n + 1), np.uint64)
    for offset in range(n if len(hashes) else 0):
        hashes = hashes * _FACTOR + word_hashes[offset : offset + len(hashes)]
    return hashes


def longest_copies(written: Sequence[list[str]], documents: Iterable[list[str]], n: int) -> list[int]:
    """Return, for each of the `written` texts, the length in words of its longest run that occurs in a document.

    0 if no run of `n` words does. Runs are found by their first n-gram and followed to their end. Documents are read once.
    """
    index = NGramIndex(written, n)
    longest = [0] * len(written)
    for document in documents:
        for text, start, position in index.occurrences(document):
            run = n
            most = min(len(written[text]) - start, len(document) - position)
            while run < most and written[text][start + run] == document[position + run]:
                run += 1
            longest[text] = max(longest[text], run)
    return longest
