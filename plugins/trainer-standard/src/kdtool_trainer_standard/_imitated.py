"""Which labelled positions are imitated: all but those that predict rejected text, which is there to be avoided.

What losses say of single tokens is of these alone, and they are what it is divided by. Losses of whole rows see every
position. Called by the module, the loop and the self-tests; rows without a column `rejected` pass through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import kdtool
from kdtool_rows import NO_LABEL
from torch import Tensor

__all__ = ["at_positions", "imitated", "imitated_labels", "picked"]


def imitated_labels(labels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
    """Return the labels [B, L] of a batch, without those of rejected tokens."""
    rejected = columns.get("rejected")
    return labels if rejected is None else labels.masked_fill(rejected != 0, NO_LABEL)


def imitated(batch: kdtool.Batch) -> Tensor | None:
    """Return which of the N labelled positions are imitated, [N] bool; None where all are."""
    if "rejected" not in batch.columns:
        return None
    return (imitated_labels(batch.labels, batch.columns) != NO_LABEL)[batch.labels != NO_LABEL]


def picked(values: Tensor, where: Tensor | None) -> Tensor:
    """Return values [N, …] at these positions; None leaves them as they are."""
    return values if where is None else values[where]


def at_positions(signal: kdtool.Signal, where: slice | Tensor) -> kdtool.Signal:
    """Return a signal whose tensors over N positions are of these alone."""

    def of(value: Any) -> Any:
        names = (name for name in ("hidden", "ids", "weights") if hasattr(value, name))
        return value and replace(value, **{name: getattr(value, name)[where] for name in names})

    hidden = {layer: states[where] for layer, states in signal.hidden.items()}
    return replace(signal, lazy=of(signal.lazy), sparse=of(signal.sparse), hidden=hidden)
