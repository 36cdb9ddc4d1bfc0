"""Weights of tokens: which positions a student learns more from.

Recipes name the classes: `teacher-entropy`, `student-entropy`, `confidence`, `position`, `syntax`. The plain functions
(`entropy`, `entropy_weight`, `probability`, `top_k_probability`, `confidence_weight`, `position_weight`, `class_weight`,
`syntax_classes`) serve any training loop. Only methods of tensors are used, and pygments is imported when a text is read, so
importing this costs nothing. Every weight is its position's own and relative: the trainer divides by the mean weight. A
quantile of a sequence is a number in the recipe here.
"""

from __future__ import annotations

from kdtool_weighting_tokens._classes import SYNTAX_CLASSES, syntax_classes
from kdtool_weighting_tokens._confidence import confidence_weight, probability, top_k_probability
from kdtool_weighting_tokens._entropy import entropy, entropy_weight
from kdtool_weighting_tokens._position import position_weight
from kdtool_weighting_tokens._syntax import Syntax, class_weight
from kdtool_weighting_tokens._weightings import Confidence, Position, StudentEntropy, TeacherEntropy

__all__ = [
    "SYNTAX_CLASSES",
    "Confidence",
    "Position",
    "StudentEntropy",
    "Syntax",
    "TeacherEntropy",
    "class_weight",
    "confidence_weight",
    "entropy",
    "entropy_weight",
    "position_weight",
    "probability",
    "syntax_classes",
    "top_k_probability",
]
