"""Numbers that the processes of a run agree on, exchanged through main memory (gloo): no GPU is waited for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["max_over_ranks", "sum_over_ranks"]


def sum_over_ranks(values: Sequence[float], world: int) -> list[float]:
    """Return the sums of these values over all `world` ranks; exact for counts."""
    return _reduce(values, world, "SUM")


def max_over_ranks(values: Sequence[float], world: int) -> list[float]:
    """Return the maxima of these values over all `world` ranks."""
    return _reduce(values, world, "MAX")


def _reduce(values: Sequence[float], world: int, operation: str) -> list[float]:
    if world == 1:
        return list(values)
    import torch

    tensor: Any = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(tensor, getattr(torch.distributed.ReduceOp, operation))
    return list(tensor.tolist())
