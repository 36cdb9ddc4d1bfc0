"""Deterministic shuffled order, independent of batch size and world size.

The phase is one long list of places; place p shows row shuffle(epoch p // rows)[p % rows]. So a resumed phase continues at
its place, whatever was prefetched.
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
        places: how many are wanted; beyond the number of rows they come again, shuffled anew.
        seed: the run's seed.
    """

    def __init__(self, rows: kdtool.RowSource, places: int, seed: int) -> None:
        self._rows = rows
        self._places = places
        self._seed = seed

    def __len__(self) -> int:
        return self._places

    def __getitem__(self, place: int) -> kdtool.Row:
        epoch, offset = divmod(place, len(self._rows))
        row = self._rows[_shuffle(len(self._rows), self._seed, epoch)[offset]]
        return replace(row, turn=self._seed + epoch)


@lru_cache(maxsize=2)
def _shuffle(count: int, seed: int, epoch: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()
