"""Logits in a precision that losses can compute in, and log-probabilities that are finite."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["LOWEST", "at_least_float32", "log_probabilities"]

LOWEST = -1e30
"""Stands for log 0: far below any log-probability, and 0 · LOWEST is 0 where 0 · (−∞) is not a number."""


def at_least_float32(values: Tensor) -> Tensor:
    """Return float32 and float64 as they are, all else as float32."""
    return values if values.dtype.itemsize >= 4 else values.float()


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return log softmax(logits / T) over the last dimension, in float32 or better, at least LOWEST."""
    return (at_least_float32(logits) / temperature).log_softmax(-1).clamp(min=LOWEST)
