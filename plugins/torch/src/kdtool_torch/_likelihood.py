"""Log-likelihood of each token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch._precision import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["log_likelihood"]


def log_likelihood(logits: Tensor, labels: Tensor) -> Tensor:
    """Return log softmax(z)_y for each position, at most 0.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64, each in 0 … V − 1.

    Returns:
        [C], in nats.
    """
    logits = at_least_float32(logits)
    return logits.gather(-1, labels[:, None])[:, 0] - logits.logsumexp(-1)
