"""Each teacher's part of a batch: the rows that it is asked about, and the positions that it teaches there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import kdtool
import torch
from kdtool_torch import NO_LABEL, batch_rows, collate, compute_on_host
from torch import Tensor

__all__ = ["COLUMN", "Part", "count_tokens", "parts_of"]

COLUMN = "teacher"
"""The column of tokens with the number of their teacher, from 1."""
_ROWS_AT_ONCE = 64


class Part(NamedTuple):
    """A teacher's part of a batch with N labels.

    `rows` are those with a document of the teacher. `asked` [M] are the numbers, among the N, of their labelled positions:
    one for each row of the teacher's signal. `taught` [n] are the rows of that signal whose positions it teaches.
    """

    rows: tuple[int, ...]
    asked: Tensor
    taught: Tensor

    def of(self, batch: kdtool.Batch) -> kdtool.Batch:
        """Return the rows of the batch."""
        return batch if len(self.rows) == len(batch.row_keys) else batch_rows(batch, self.rows)


def parts_of(batch: kdtool.Batch, teachers: Sequence[str]) -> dict[str, Part]:
    """Return the parts of the teachers that teach a position of the batch; the first teacher's if there is none."""
    parts = {
        name: Part(*compute_on_host(_part, batch.columns[COLUMN], batch.document, batch.labels, number=number))
        for number, name in enumerate(teachers, 1)
    }
    return {name: part for name, part in parts.items() if part.rows} or {teachers[0]: _whole(batch)}


def count_tokens(rows: Iterable[kdtool.Row], teachers: int) -> list[int]:
    """Return how many of the rows' labelled tokens each teacher teaches, in their order."""
    counts, pending = torch.zeros(teachers, dtype=torch.int64), list[kdtool.Row]()
    for row in rows:
        pending.append(row)
        if len(pending) == _ROWS_AT_ONCE:
            counts += _count(pending, teachers)
            pending = []
    return [int(count) for count in (counts + _count(pending, teachers) if pending else counts)]


def _count(rows: Sequence[kdtool.Row], teachers: int) -> Tensor:
    batch = collate(rows)
    numbers = _numbers(batch.columns[COLUMN], batch.document)[batch.labels != NO_LABEL]
    return torch.bincount(numbers, minlength=teachers + 1)[1:]


def _part(column: Tensor, document: Tensor, labels: Tensor, *, number: int) -> tuple[tuple[int, ...], Tensor, Tensor]:
    labelled = labels != NO_LABEL
    mine = (_numbers(column, document) == number) & labelled
    rows = mine.any(1).nonzero().flatten()
    index = (labelled.flatten().cumsum(0) - 1).view_as(labels)
    inside = labelled[rows]
    return tuple(rows.tolist()), index[rows][inside], mine[rows][inside].nonzero().flatten()


def _numbers(column: Tensor, document: Tensor) -> Tensor:
    """Return the number of each position's teacher, [B, L]: the greatest in its document, since tokens without text have 0.

    A document without a number is of the first teacher.
    """
    index = document.long().clamp(min=-1) + 1
    greatest = column.new_zeros(len(column), int(index.max()) + 1).scatter_reduce(1, index, column, "amax")
    return greatest.gather(1, index).clamp(min=1)


def _whole(batch: kdtool.Batch) -> Part:
    labels = torch.arange(int((batch.labels != NO_LABEL).sum()), device=batch.labels.device)
    return Part(tuple(range(len(batch.row_keys))), labels, labels)
