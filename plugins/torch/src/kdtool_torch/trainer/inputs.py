"""Inputs of the steps: rows in a shuffled order, prepared in a background thread.

The phase is one long list of positions; position p has row shuffle(epoch p // rows)[p % rows], independent of batch
size and world size. So a resumed phase continues at its position, regardless of prefetching. A step is `rows_per_step`
successive rows, however many processes share them: micro-batch m of rank r consists of the rows (m · world + r) · batch
onwards. The thread reads and collates rows, copies them to the device and decodes recorded signals.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

import kdtool
import torch

from kdtool_torch.batch import collate, move
from kdtool_torch.signals import MicroBatch, TeacherSignals


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


T = TypeVar("T")
_DEPTH = 2
"""Items that the thread prepares in advance: a micro-batch that computes, and one that waits, hide all its work."""


def ahead(items: Iterator[T], depth: int = _DEPTH) -> Generator[T, None, None]:
    """Yield items that a thread makes in advance, in order. An error in the thread is raised here, in its turn."""
    with ThreadPoolExecutor(1, "kdtool inputs") as thread:
        made = deque(thread.submit(next, items, None) for _ in range(depth))
        while (item := made.popleft().result()) is not None:
            made.append(thread.submit(next, items, None))
            yield item


class StepInputs:
    """The inputs of a rank's steps from `first`, counted from 0. `close` ends the thread.

    Args:
        teachers: their signals are decoded in advance if they were recorded; None for only the batches.
    """

    def __init__(
        self,
        rows: RowsInOrder,
        batch: int,
        micro_batches: int,
        rank: int,
        world: int,
        device: torch.device,
        teachers: TeacherSignals | None,
        first: int,
    ) -> None:
        self._rows, self._batch, self._count, self._rank, self._world = rows, batch, micro_batches, rank, world
        self._device, self._teachers = device, teachers
        self._ahead = ahead(self._items(first))

    def close(self) -> None:
        """End the thread."""
        self._ahead.close()

    def batches(self) -> list[kdtool.Batch]:
        """Return the micro-batches of the next step, in main memory. Take all of `micro_batches` before the next call."""
        batches = next(self._ahead)
        assert isinstance(batches, list)  # noqa: S101 - the order of `_items`
        return batches

    def micro_batches(self) -> Iterator[MicroBatch]:
        """Yield the same micro-batches on the device, with the recorded signals; only if there are teachers."""
        for _ in range(self._count):
            micro_batch = next(self._ahead)
            assert isinstance(micro_batch, MicroBatch)  # noqa: S101 - the order of `_items`
            yield micro_batch

    def _items(self, step: int) -> Iterator[Sequence[kdtool.Batch] | MicroBatch]:
        """Yield for each step its batches, which are counted first, and then each one with its signals."""
        while (step + 1) * self._count * self._world * self._batch <= len(self._rows):
            batches = [self._collate(step * self._count + number) for number in range(self._count)]
            yield batches
            if self._teachers is not None:
                for batch in batches:
                    with torch.no_grad():
                        yield self._teachers.recall(move(batch, self._device))
            step += 1

    def _collate(self, number: int) -> kdtool.Batch:
        start = (number * self._world + self._rank) * self._batch
        return collate([self._rows[index] for index in range(start, start + self._batch)])
