"""Denominators of a step's terms: how many tokens each term sees.

A term is the sum over the tokens that it sees, divided by their number over all micro-batches and ranks, and by the mean of
their weights. Called by the loop, which counts, and by the module, which divides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import kdtool
from kdtool_torch import NO_LABEL
from torch import Tensor

from kdtool_trainer_standard._loss_mask import loss_labels
from kdtool_trainer_standard._on_policy import STUDENT_GENERATED

__all__ = ["CorpusCounts", "count_corpus"]


@dataclass(frozen=True)
class CorpusCounts:
    """Imitated tokens and rows of a step that come from the corpus, over all micro-batches and ranks; 0-d float32."""

    tokens: Tensor
    rows: Tensor


def count_corpus(batches: Iterable[kdtool.Batch]) -> tuple[int, int]:
    """Return the imitated tokens and the rows that come from the corpus, of batches with the column `student_generated`."""
    tokens = rows = 0
    for batch in batches:
        generated = batch.columns[STUDENT_GENERATED] != 0
        in_mask = loss_labels(batch.labels, batch.columns) != NO_LABEL
        tokens += int((in_mask & ~generated).sum())
        rows += int((~generated.any(1)).sum())
    return tokens, rows
