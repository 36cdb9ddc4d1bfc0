"""Rank a row's likely tokens by small numbers: the row's own labels come first, the most frequent before others.

Readers of a row have its labels, so the order itself is not stored. Several rows are processed at once.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Ranks"]

Ints = NDArray[np.int64]
_ROW = 1 << 40
"""Row and token as one number: row · _ROW + token."""


class Ranks:
    """The order of tokens in each of several rows: its U different labels by frequency, then token v with rank U + v.

    Args:
        labels: [N], those of all rows, one row after the other.
        rows: [N], ascending from 0: the row of each label.
    """

    def __init__(self, labels: Ints, rows: Ints) -> None:
        self._keys, counts = np.unique(rows * _ROW + labels, return_counts=True)
        row, tokens = np.divmod(self._keys, _ROW)
        starts = np.searchsorted(row, np.arange(int(rows.max(initial=-1)) + 2))
        self._starts, self._different = starts[:-1], np.diff(starts)
        self._order = np.lexsort((tokens, -counts, row))
        self._frequent = tokens[self._order]

    def of(self, tokens: Ints, rows: Ints) -> Ints:
        """Return the tokens' ranks in their rows, from 0."""
        keys = rows * _ROW + tokens
        place, ranks = np.searchsorted(self._keys, keys), tokens + self._different[rows]
        known = np.append(self._keys, -1)[place] == keys
        place_by_frequency = self._order.argsort()
        ranks[known] = place_by_frequency[place[known]] - self._starts[rows[known]]
        return np.asarray(ranks)

    def tokens(self, ranks: Ints, rows: Ints) -> Ints:
        """Return the tokens of these ranks in their rows: the inverse of `of`."""
        found = ranks - self._different[rows]
        known = found < 0
        found[known] = self._frequent[self._starts[rows[known]] + ranks[known]]
        return np.asarray(found)
