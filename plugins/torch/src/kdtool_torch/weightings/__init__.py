"""Weightings: of tokens, so that a student learns more from some, and of losses against each other.

Recipes name the classes: `student-entropy`, `confidence`; `uncertainty`, `on-metric`. The plain functions serve
any training loop. Only methods of tensors are used, so importing this costs nothing.

Every weight of a token is its position's own and relative: the trainer divides by the mean weight. A quantile of a
sequence is a number in the recipe here. Balanced losses begin with the recipe's weights (every factor 1) and go by the
figures of the last step; what they learned is in the phase's checkpoints.
"""

from __future__ import annotations

from kdtool_torch.weightings.balance import OnMetric, Uncertainty, uncertainty_step
from kdtool_torch.weightings.tokens import (
    Confidence,
    StudentEntropy,
    confidence_weight,
    entropy,
    entropy_weight,
    probability,
    top_k_probability,
)

__all__ = [
    "Confidence",
    "OnMetric",
    "StudentEntropy",
    "Uncertainty",
    "confidence_weight",
    "entropy",
    "entropy_weight",
    "probability",
    "top_k_probability",
    "uncertainty_step",
]
