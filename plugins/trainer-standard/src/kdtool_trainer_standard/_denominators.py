"""Denominators of a step's terms: how many tokens each term sees.

A term is the sum over the tokens that it sees, divided by their number over all micro-batches and ranks, and by the mean of
their weights. Called by the loop, which counts, and by the module, which divides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
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


def count_corpus(batches: Iterable[Mapping[str, Any]], device: torch.device, world: int) -> CorpusCounts:
    """Count a step's micro-batches, which have the column `student_generated`."""
    counts = torch.zeros(2)
    for batch in batches:
        generated = batch["columns"][STUDENT_GENERATED] != 0
        in_mask = loss_labels(batch["labels"], batch["columns"]) != NO_LABEL
        counts += torch.stack([(in_mask & ~generated).sum(), (~generated.any(1)).sum()]).cpu()
    counts = counts.to(device)
    if world > 1:
        dist.all_reduce(counts)
    return CorpusCounts(counts[0], counts[1])
