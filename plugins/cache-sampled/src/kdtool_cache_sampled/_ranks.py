"""Small numbers for tokens that are likely in a row: those of its own labels come first, the most frequent before others.

Whoever reads the row has its labels, so the order needs no room of its own. Several rows are done at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranks"]

Ints = NDArray[np.int64]
_ROW = 1 << 40
"""Row and token as one number: row · _ROW + token."""


class Ranks:
    """The order of tokens in each of several rows.

    Args:
        labels: [N], those of all rows, one row after the other.
        rows: [N], ascending from 0: the row of each label.
    """

    def __init__(self, labels: Ints, rows: Ints) -> None:
        self._keys, counts = np.unique(rows * _ROW + labels, return_counts=True)
        row, self._tokens = np.divmod(self._keys, _ROW)
        self._starts = np.searchsorted(row, np.arange(int(rows.max(initial=-1)) + 2))
        self._order = np.lexsort((self._tokens, -counts, row))
        self._place = np.empty_like(self._order)
        self._place[self._order] = np.arange(len(self._order))
        # how many tokens that are no label are below each label
        self._below = row * _ROW + self._tokens - (np.arange(len(row)) - self._starts[row])

    def of(self, tokens: Ints, rows: Ints) -> Ints:
        """Return the tokens' ranks in their rows, from 0."""
        keys = rows * _ROW + tokens
        place, start = np.searchsorted(self._keys, keys), self._starts[rows]
        known = np.append(self._keys, -1)[place] == keys
        ranks = tokens - (place - start) + (self._starts[rows + 1] - start)
        ranks[known] = self._place[place[known]] - start[known]
        return np.asarray(ranks)

    def tokens(self, ranks: Ints, rows: Ints) -> Ints:
        """Return the tokens of these ranks in their rows: what `of` was given."""
        start = self._starts[rows]
        others = ranks - (self._starts[rows + 1] - start)
        found: Ints = others + np.searchsorted(self._below, rows * _ROW + others, side="right") - start
        known = others < 0
        found[known] = self._tokens[self._order[start[known] + ranks[known]]]
        return found
