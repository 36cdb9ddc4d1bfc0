"""Log-probabilities at a temperature, in float32 or better, finite everywhere. Used by every divergence here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOWEST", "log_probabilities"]

LOWEST = -1e30
"""Stands for log 0: far below any log-probability, and 0 · LOWEST is 0 where 0 · (−∞) is not a number."""


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return log softmax(logits / T) over the last dimension; float64 stays, all else becomes float32."""
    logits = logits if logits.dtype.itemsize >= 4 else logits.float()
    return (logits / temperature).log_softmax(-1).clamp(min=LOWEST)
