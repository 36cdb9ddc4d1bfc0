"""A weight made of what a token is in its language: a comment, a keyword, a name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PYTHON_SHARES", "class_weight", "mean_weight"]

PYTHON_SHARES: Mapping[str, float] = {
    "other": 0.021,
    "whitespace": 0.086,
    "comment": 0.291,
    "string": 0.120,
    "number": 0.011,
    "operator": 0.060,
    "punctuation": 0.097,
    "keyword": 0.049,
    "name": 0.265,
}
"""Shares of the classes among the 1.8 million tokens that SmolLM2's tokenizer makes of Python's standard library (3.11)."""


def class_weight(classes: Tensor, weights: Sequence[float]) -> Tensor:
    """Return the weight of each position's class.

    Args:
        classes: [C] integers from 0; those for which there is no weight count as 0.
        weights: of each class, in order, not negative.

    Returns:
        [C] float32, without unit.
    """
    table = classes.float().new_tensor(weights)
    return table[classes.where(classes < len(weights), 0)]


def mean_weight(weights: Sequence[float], shares: Mapping[str, float] = PYTHON_SHARES) -> float:
    """Return the mean of weights, one for each of `kdtool.SYNTAX_CLASSES`, over tokens with these shares of them."""
    return sum(shares[name] * weight for name, weight in zip(kdtool.SYNTAX_CLASSES, weights, strict=True))
