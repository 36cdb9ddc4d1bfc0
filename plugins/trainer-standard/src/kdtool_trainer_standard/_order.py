"""Deterministic shuffled order, independent of batch size and world size.

The phase is one long list of positions; position p has row shuffle(epoch p // rows)[p % rows]. So a resumed phase continues
at its position, regardless of prefetching.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import kdtool
import torch

__all__ = ["RowsInOrder"]


class RowsInOrder(torch.utils.data.Dataset[kdtool.Row]):
    """The rows of a phase in the order in which they are learned from.

    Args:
        rows: the rows, at least one.
        length: length of the list; after all rows, they are shuffled again and repeated.
        seed: the run's seed.
    """

    def __init__(self, rows: kdtool.RowSource, length: int, seed: int) -> None:
        self._rows = rows
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> kdtool.Row:
        epoch, offset = divmod(index, len(self._rows))
        row = self._rows[_shuffle(len(self._rows), self._seed, epoch)[offset]]
        return replace(row, turn=self._seed + epoch)


@lru_cache(maxsize=2)
def _shuffle(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
