"""A weight made of a token's place in its document."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["position_weight"]


def position_weight(
    positions: Tensor, first: float = 0.0, tokens: int = 64, shape: Literal["linear", "exponential"] = "linear"
) -> Tensor:
    """Return w(i) = 1 + (a − 1)·f(i): a at the beginning of a document, 1 far from it.

    f(i) = max(0, 1 − i / n) along a straight line, f(i) = 2^(−i / n) exponentially. a < 1 is a ramp, a > 1 a decay. Always
    between a and 1. The mean over a document of L ≥ n tokens is 1 + (a − 1)·(n + 1) / (2·L) along a line.

    Args:
        positions: [C] integers, from 0 within the document.
        first: a ≥ 0.
        tokens: n ≥ 1: where a line reaches 1, or the exponential's half-life.
        shape: which f.

    Returns:
        [C] float32, without unit.
    """
    away = positions.float() / tokens
    share = (1 - away).clamp(min=0) if shape == "linear" else (-away).exp2()
    return 1 + (first - 1) * share
