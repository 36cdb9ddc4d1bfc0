"""Some rows of a micro-batch with everything that belongs to them: teacher rows and signals.

Used by the self-tests, which look at one row, and by the measurement of gradient norms, which looks at a few. Everything
that depends on values is computed in main memory: no GPU waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import kdtool
import torch
from kdtool_torch import NO_LABEL, compute_on_host, loss_labels, move, original_of
from torch import Tensor

from kdtool_trainer_standard._loss_mask import select_signal

__all__ = ["imitated_by_row", "select_rows"]


def imitated_by_row(batch: kdtool.Batch) -> tuple[int, ...]:
    """Return how many positions of each row are in the loss mask."""
    rejected = batch.columns.get("rejected")
    return compute_on_host(_count, batch.labels, *([] if rejected is None else [rejected]))


def select_rows(
    rows: Sequence[int],
    batch: kdtool.Batch,
    signals: Mapping[str, kdtool.Signal],
    teacher_batches: Mapping[str, kdtool.Batch],
) -> tuple[kdtool.Batch, dict[str, kdtool.Signal], dict[str, kdtool.Batch]]:
    """Return only these rows of a batch, of the signals and of the batches of teachers with their own rows.

    Args:
        rows: their numbers in the batch, ascending.
        batch: B rows.
        signals: of each teacher, for the batch.
        teacher_batches: the same rows in the tokenizers of teachers that do not read the student's tokens.
    """
    selected = {
        name: _rows_of_signal(signal, teacher_batches.get(name, batch), rows) for name, signal in signals.items()
    }
    return (
        _rows_of_batch(batch, rows),
        selected,
        {name: _rows_of_batch(other, rows) for name, other in teacher_batches.items()},
    )


def _rows_of_batch(batch: kdtool.Batch, rows: Sequence[int]) -> kdtool.Batch:
    only = torch.tensor(rows)

    def of(tensor: Tensor) -> Tensor:
        return move(original_of(tensor)[only], tensor.device)

    return replace(
        batch,
        input_ids=of(batch.input_ids),
        positions=of(batch.positions),
        labels=of(batch.labels),
        document=of(batch.document),
        row_keys=tuple(batch.row_keys[row] for row in rows),
        turns=tuple(batch.turns[row] for row in rows) if batch.turns else (),
        columns={name: of(column) for name, column in batch.columns.items()},
    )


def _rows_of_signal(signal: kdtool.Signal, batch: kdtool.Batch, rows: Sequence[int]) -> kdtool.Signal:
    counts, device = compute_on_host(_count, batch.labels), batch.labels.device
    starts = [sum(counts[:row]) for row in rows]
    numbers = [number for row, start in zip(rows, starts, strict=True) for number in range(start, start + counts[row])]
    positions = move(torch.tensor(numbers, dtype=torch.int64), device)
    only = move(torch.tensor(rows), device)
    return replace(
        select_signal(signal, positions),
        attentions={layer: maps[only] for layer, maps in signal.attentions.items()},
        projections={
            layer: kdtool.Projections(*(tensor[only] for tensor in tensors))
            for layer, tensors in signal.projections.items()
        },
    )


def _count(labels: Tensor, rejected: Tensor | None = None) -> tuple[int, ...]:
    learned = labels if rejected is None else loss_labels(labels, {"rejected": rejected})
    return tuple((learned != NO_LABEL).sum(1).tolist())
