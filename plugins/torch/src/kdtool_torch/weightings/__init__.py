"""Weightings: of tokens, so that a student learns more from some, and of losses against each other.

Recipes name the classes: `teacher-entropy`, `student-entropy`, `confidence`, `position`, `syntax`; `uncertainty`,
`gradnorm`, `on-metric`. The plain functions serve any training loop. Only methods of tensors are used, and pygments is
imported when a text is read, so importing this costs nothing.

Every weight of a token is its position's own and relative: the trainer divides by the mean weight. A quantile of a
sequence is a number in the recipe here. Balanced losses begin with the recipe's weights (every factor 1) and go by the
figures of the last step; what they learned is in the phase's checkpoints.
"""

from __future__ import annotations

from kdtool_torch.weightings.balance import GradNorm, OnMetric, Uncertainty, gradnorm_step, uncertainty_step
from kdtool_torch.weightings.syntax import SYNTAX_CLASSES, Syntax, class_weight, syntax_classes
from kdtool_torch.weightings.tokens import (
    Confidence,
    Position,
    StudentEntropy,
    TeacherEntropy,
    confidence_weight,
    entropy,
    entropy_weight,
    position_weight,
    probability,
    top_k_probability,
)

__all__ = [
    "SYNTAX_CLASSES",
    "Confidence",
    "GradNorm",
    "OnMetric",
    "Position",
    "StudentEntropy",
    "Syntax",
    "TeacherEntropy",
    "Uncertainty",
    "class_weight",
    "confidence_weight",
    "entropy",
    "entropy_weight",
    "gradnorm_step",
    "position_weight",
    "probability",
    "syntax_classes",
    "top_k_probability",
    "uncertainty_step",
]
