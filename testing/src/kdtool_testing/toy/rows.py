"""Rows in memory, and rows as a batch of tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from kdtool import Batch, Row

__all__ = ["ListSource", "batch_of", "batch_on"]


class ListSource:
    """Rows in memory, as a `kdtool.RowSource`."""

    fingerprint = "rows of a test"

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.length = len(rows[0].input_ids)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Row:
        return self.rows[index]


def batch_of(rows: Sequence[Row]) -> Batch:
    """Collate rows as the engine's trainers do: labels shifted, positions from 0 in each document. Needs torch."""
    import torch

    ids = torch.tensor([list(row.input_ids) for row in rows])
    document = torch.tensor([list(row.document) for row in rows], dtype=torch.int32)
    labels, positions = torch.full_like(ids, -100), torch.zeros_like(ids)
    columns = {name: torch.zeros_like(ids) for name in rows[0].columns}
    for b, row in enumerate(rows):
        for i in range(len(row.input_ids)):
            same = i > 0 and row.document[i] == row.document[i - 1]
            positions[b, i] = positions[b, i - 1] + 1 if same else 0
            if same and row.labelled[i] and row.document[i] >= 0:
                labels[b, i - 1] = row.input_ids[i]
                for name, column in columns.items():
                    column[b, i - 1] = row.columns[name][i]
    return Batch(ids, positions, labels, document, tuple(row.key for row in rows), columns)


def batch_on(batch: Batch, device: Any) -> Batch:
    """Return the batch with its tensors on a device."""
    tensors = {name: getattr(batch, name).to(device) for name in ("input_ids", "positions", "labels", "document")}
    return replace(batch, **tensors)
