"""A step's figures on one rank: gathered on the device without reading them, and read once when the step is over."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["StepFigures", "StepStats"]


@dataclass(eq=False)
class StepStats:
    """One step's figures on this rank: each term's share of the mean value, and of its squared gradient norm.

    `weights` is its sum of token weights. `seen` is how many tokens (or rows) it sees on all ranks, not on this one.
    `overlap` is the sum of `sum_of_some` over micro-batches, [4].
    """

    values: Tensor
    squared_norms: Tensor
    weights: Tensor
    seen: Tensor
    overlap: Tensor
    tokens: Tensor = field(default_factory=lambda: torch.zeros(()))
    is_finite: Tensor | None = None
    """False if a value or gradient of a term is not; None before the first micro-batch."""

    def add_check(self, is_finite: Tensor) -> None:
        """Note whether a micro-batch's values are finite, 0-d bool, without reading it."""
        self.is_finite = is_finite if self.is_finite is None else self.is_finite & is_finite

    def read(self, gradient_norm: Tensor) -> StepFigures:
        """Return all figures in main memory, for which the host of a GPU waits: call it once per step."""
        finite = torch.ones_like(self.values[:1]) if self.is_finite is None else self.is_finite.float()[None]
        parts = self.values, self.squared_norms, self.weights, self.seen, self.overlap
        flat = torch.cat([*parts, finite, gradient_norm.float()[None]]).tolist()
        count = len(self.values)
        values, squared_norms, weights, seen = (flat[start : start + count] for start in range(0, 4 * count, count))
        overlap = flat[4 * count : -2]
        return StepFigures(values, squared_norms, weights, seen, overlap, bool(flat[-2]), gradient_norm=flat[-1])


@dataclass(frozen=True)
class StepFigures:
    """A step's `StepStats` on this rank in main memory, one number for each term, and the norm of the whole gradient."""

    values: list[float]
    squared_norms: list[float]
    weights: list[float]
    seen: list[float]
    overlap: list[float]
    is_finite: bool
    gradient_norm: float
