"""Picks a shape for a wanted number of parameters: the most usual one that fits, or else the nearest. Light: no torch.

The student plugin defines the shapes, and how unusual each is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeVar

__all__ = ["TOLERANCE", "best_shape"]

TOLERANCE = 0.02
"""Relative tolerance of a shape's count of parameters."""

S = TypeVar("S", bound=tuple[Any, ...])


def best_shape(
    wanted: int,
    shapes: Callable[[tuple[float, float]], Iterator[S]],
    count: Callable[[S], int],
    cost: Callable[[S], float],
) -> tuple[S, bool]:
    """Return the cheapest shape within `TOLERANCE` of `wanted` and True; if there is none, the nearest and False.

    Args:
        wanted: parameters.
        shapes: yields all shapes with a count within bounds; at least one shape must exist.
        count: a shape's parameters.
        cost: how unusual a shape of the wanted count is; its error is added to it.
    """

    def within(tolerance: float) -> Iterator[S]:
        return shapes((wanted * (1 - tolerance), wanted * (1 + tolerance)))

    def error(shape: S) -> float:
        return abs(count(shape) / wanted - 1)

    fitting = min(within(TOLERANCE), key=lambda shape: (cost(shape) + 10 * error(shape), shape), default=None)
    if fitting is not None:
        return fitting, True
    tolerance, nearest = TOLERANCE, None
    while nearest is None:  # widen the bounds until a shape is found
        tolerance *= 1.5
        nearest = min(within(tolerance), key=lambda shape: (abs(count(shape) - wanted), shape), default=None)
    return nearest, False
