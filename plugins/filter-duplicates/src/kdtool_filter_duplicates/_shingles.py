"""Cut texts into shingles: overlapping runs of words, as hashes that are the same in every process."""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["jaccard", "shingles_of"]

_WORD = re.compile(r"\w+|[^\w\s]")
_FACTOR = np.uint64(0x9E3779B97F4A7C15)
_MIX = np.uint64(0xBF58476D1CE4E5B9)
_HALF = np.uint64(32)


def shingles_of(text: str, words: int) -> NDArray[np.uint64]:
    """Return the hashes of a text's distinct shingles, sorted; names, numbers and signs are words.

    A text of fewer than `words` words is one shingle; an empty text has none.
    """
    word_hashes = np.fromiter(map(_hash, _WORD.findall(text)), np.uint64)
    length = min(words, len(word_hashes))
    if not length:
        return word_hashes
    hashes = np.zeros(len(word_hashes) - length + 1, np.uint64)
    for offset in range(length):
        hashes = hashes * _FACTOR + word_hashes[offset : offset + len(hashes)]
    hashes ^= hashes >> _HALF
    hashes *= _MIX
    return np.unique(hashes ^ (hashes >> _HALF))


def jaccard(first: NDArray[np.uint64], second: NDArray[np.uint64]) -> float:
    """Return the share of common elements of two sorted sets; at least one must not be empty."""
    common = len(np.intersect1d(first, second, assume_unique=True))
    return common / (len(first) + len(second) - common)


@lru_cache(maxsize=65_536)
def _hash(word: str) -> int:
    return int.from_bytes(blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
