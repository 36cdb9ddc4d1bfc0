"""The mask of token losses: all labelled positions except those that predict rejected text, which the student should avoid.

Token losses are computed at these positions, and their number is the divisor. Losses of whole rows see every position.
Rows without a column `rejected` pass through untouched.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from kdtool_torch._batches import NO_LABEL
from kdtool_torch._on_host import compute_on_host

if TYPE_CHECKING:
    import kdtool
    from torch import Tensor

__all__ = ["loss_labels", "loss_mask", "select"]


def loss_labels(labels: Tensor, columns: Mapping[str, Tensor]) -> Tensor:
    """Return the labels [B, L] of a batch, without those of rejected tokens."""
    rejected = columns.get("rejected")
    return labels if rejected is None else labels.masked_fill(rejected != 0, NO_LABEL)


def loss_mask(batch: kdtool.Batch) -> Tensor | None:
    """Return the numbers of those of the N labelled positions that token losses see, int64; None if they see all."""
    rejected = batch.columns.get("rejected")
    return None if rejected is None else compute_on_host(_find_targets, batch.labels, rejected)


def select(values: Tensor, mask: Tensor | None) -> Tensor:
    """Return values [N, …] at the positions of a mask; None leaves them as they are."""
    return values if mask is None else values.index_select(0, mask)


def _find_targets(labels: Tensor, rejected: Tensor) -> Tensor:
    return (rejected[labels != NO_LABEL] == 0).nonzero().flatten()
