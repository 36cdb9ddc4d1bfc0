"""A weight made of what a token is in its language: a comment, a keyword, a name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["class_weight"]


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
