"""A micro-batch: rows with everything that belongs to them, and parts of it.

Some of its rows are selected by the self-tests, which look at one row, and by the measurement of gradient norms, which looks
at a few. Everything that depends on values is computed in main memory: no GPU waits.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import kdtool
import torch
from kdtool_torch import NO_LABEL, batch_rows, compute_on_host, loss_labels, map_tensors, move
from torch import Tensor

__all__ = ["MicroBatch", "imitated_by_row", "plain_tensors", "select_rows", "select_signal"]


@dataclass(frozen=True, eq=False)
class MicroBatch:
    """Rows on the device, each teacher's signal, and the same rows in the tokenizers of teachers that read no other."""

    batch: kdtool.Batch
    signals: Mapping[str, kdtool.Signal] = field(default_factory=dict)
    teacher_batches: Mapping[str, kdtool.Batch] = field(default_factory=dict)


def imitated_by_row(batch: kdtool.Batch) -> tuple[int, ...]:
    """Return how many positions of each row are in the loss mask."""
    rejected = batch.columns.get("rejected")
    return compute_on_host(_count, batch.labels, *([] if rejected is None else [rejected]))


def select_rows(rows: Sequence[int], whole: MicroBatch) -> MicroBatch:
    """Return only these rows, in ascending order, with their signals."""
    others = whole.teacher_batches
    return MicroBatch(
        batch_rows(whole.batch, rows),
        {name: _rows_of_signal(each, others.get(name, whole.batch), rows) for name, each in whole.signals.items()},
        {name: batch_rows(batch, rows) for name, batch in others.items()},
    )


def select_signal(signal: kdtool.Signal, where: slice | Tensor) -> kdtool.Signal:
    """Return the signal with only these positions in its tensors over N positions."""

    def of(value: Any) -> Any:
        names = (name for name in ("hidden", "ids", "weights", "log_probabilities") if hasattr(value, name))
        return value and replace(value, **{name: getattr(value, name)[where] for name in names})

    hidden = {layer: states[where] for layer, states in signal.hidden.items()}
    return replace(signal, lazy=of(signal.lazy), sparse=of(signal.sparse), chosen=of(signal.chosen), hidden=hidden)


def plain_tensors(signal: kdtool.Signal) -> kdtool.Signal:
    """Return the signal without inference tensors, which autograd refuses to keep for backward."""
    without_lazy = map_tensors(_plain, replace(signal, lazy=None))
    return replace(without_lazy, lazy=signal.lazy)  # lazy states are projected by us, which gives ordinary tensors


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


def _plain(tensor: Tensor) -> Tensor:
    return tensor.clone() if tensor.is_inference() else tensor
