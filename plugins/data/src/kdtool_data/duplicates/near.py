"""Near-duplicates: kept texts with nearly the same shingles, which are overlapping runs of words.

Candidates are found by MinHash and verified by their exact Jaccard index. A text's signature (128 minima of hashes, by
rensa) is cut into bands. Two texts of similarity s agree in a band of r minima with the probability s^r; candidates
agree in at least one. Each band has a hash table of rows: `heads` has the newest row of each slot, `nexts` the one
before each row in its slot. Shingles and tables are in temporary files, so the process's own memory does not grow with
the rows: the system caches as many pages as it has room for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from hashlib import blake2b
from tempfile import TemporaryFile
from typing import TYPE_CHECKING, Any
from weakref import finalize

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WORD = re.compile(r"\w+|[^\w\s]")
_WORD_FACTOR = np.uint64(0x9E3779B97F4A7C15)
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
        hashes = hashes * _WORD_FACTOR + word_hashes[offset : offset + len(hashes)]
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


_MINIMA = 128
_SEED = 42
_RECALL = 0.99
_FIRST_ROWS = 1024
_CANDIDATES = 512
"""Maximum number of candidates that are verified for a text, the newest first."""
_BAND_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def bands_for(similarity: float) -> tuple[int, int]:
    """Return the number of bands and of minima in each: the longest bands that find such texts 99 times out of 100."""
    for length in range(_MINIMA, 1, -1):
        bands = _MINIMA // length
        if 1 - (1 - similarity**length) ** bands >= _RECALL:
            return bands, length
    return _MINIMA, 1


class NearTexts:
    """Texts that were kept, as sets of shingles.

    Args:
        similarity: minimum Jaccard index of near-duplicates.
        most: number of texts to remember, the newest ones. Each takes 16 bytes of disk space per band (about 350 bytes at
            0.8) and 8 bytes per shingle.
    """

    def __init__(self, similarity: float, most: int) -> None:
        self._similarity = similarity
        self._most = most
        self._bands, self._minima = bands_for(similarity)
        self._file = TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `close`
        finalize(self, self._file.close)
        self._end = 0
        self._rows = 0
        self._allocate(min(_FIRST_ROWS, most))

    def signatures(self, texts: Sequence[NDArray[np.uint64]]) -> NDArray[np.uint32]:
        """Return a hash of each band of each text, [texts, bands]."""
        from rensa import RMinHash

        flat = np.concatenate([np.zeros(0, np.uint64), *texts])
        offsets = np.cumsum([0, *map(len, texts)]).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(flat, offsets, _MINIMA, _SEED)
        minima = np.array(matrix.to_rows(), np.uint64).reshape(len(texts), _MINIMA)
        bands = minima[:, : self._bands * self._minima].reshape(len(texts), self._bands, self._minima)
        hashes = np.zeros(bands.shape[:2], np.uint64)
        for index in range(self._minima):
            hashes = (hashes + bands[:, :, index]) * _BAND_FACTOR
        return (hashes >> np.uint64(32)).astype(np.uint32)

    def has_near(self, text: NDArray[np.uint64], signature: NDArray[np.uint32], owner: int) -> bool:
        """Return whether a remembered text of another owner is at least as similar as `similarity`."""
        for number, row in enumerate(self._candidates(signature.tolist())):
            if number == _CANDIDATES:
                return False
            index = row % self._capacity
            size = self._sizes[index]
            if self._owners[index] == owner:
                continue
            if min(size, len(text)) < self._similarity * max(size, len(text)):
                continue  # too different in length
            self._file.seek(self._offsets[index])
            other = np.frombuffer(self._file.read(8 * int(size)), np.uint64)
            if jaccard(text, other) >= self._similarity:
                return True
        return False

    def add(self, text: NDArray[np.uint64], signature: NDArray[np.uint32], owner: int) -> None:
        """Remember a text of an owner; forget the oldest one if there are too many."""
        if self._rows == self._capacity < self._most:
            self._grow()
        row, index = self._rows, self._rows % self._capacity
        self._file.seek(self._end)
        self._file.write(text.tobytes())
        self._offsets[index], self._sizes[index], self._owners[index] = self._end, len(text), owner
        slots = signature & self._mask
        bands = np.arange(self._bands)
        self._hashes[index] = signature
        self._nexts[index] = self._heads[bands, slots]
        self._heads[bands, slots] = row + 1
        self._end += text.nbytes
        self._rows += 1

    def close(self) -> None:
        """Delete everything."""
        self._file.close()

    def _candidates(self, signature: Sequence[int]) -> Iterator[int]:
        """Yield rows that agree with a signature in a band, each once."""
        seen: set[int] = set()
        oldest = self._rows - self._capacity
        for band, value in enumerate(signature):
            row = int(self._heads[band, value & int(self._mask)]) - 1
            while row >= max(oldest, 0):
                index = row % self._capacity
                if row not in seen and self._hashes[index, band] == value:
                    seen.add(row)
                    yield row
                row = int(self._nexts[index, band]) - 1

    def _allocate(self, capacity: int) -> None:
        self._capacity = capacity
        slots = 1 << (capacity - 1).bit_length()
        self._mask = np.uint32(slots - 1)
        self._heads = _table((self._bands, slots), np.int32)  # a row's number + 1; 0 is the end
        self._nexts = _table((capacity, self._bands), np.int32)
        self._hashes = _table((capacity, self._bands), np.uint32)
        self._offsets = _table((capacity,), np.int64)
        self._sizes = _table((capacity,), np.int32)
        self._owners = _table((capacity,), np.int64)

    def _grow(self) -> None:
        """Double the tables; as long as they grow, a row's number is also its index."""
        rows, hashes, offsets, sizes, owners = self._rows, self._hashes, self._offsets, self._sizes, self._owners
        self._allocate(min(2 * self._capacity, self._most))
        self._hashes[:rows], self._offsets[:rows] = hashes, offsets
        self._sizes[:rows], self._owners[:rows] = sizes, owners
        for band in range(self._bands):
            slots = hashes[:, band] & self._mask
            order = np.argsort(slots, kind="stable")  # rows of a slot follow each other, the oldest first
            same = slots[order[1:]] == slots[order[:-1]]
            self._nexts[order[1:][same], band] = order[:-1][same] + 1
            self._heads[band, slots[order]] = order + 1  # the last one assigned stays: the newest


def _table(shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Return an array of zeros in a temporary file, which is deleted when the last view of it is."""
    with TemporaryFile() as file:
        return np.asarray(np.memmap(file, dtype, "w+", shape=shape))
