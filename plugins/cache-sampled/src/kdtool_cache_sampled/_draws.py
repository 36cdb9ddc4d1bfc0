"""Drawing tokens from a teacher's distribution so that shares of draws are unbiased estimates of its probabilities.

Plain functions for any training loop. Both designs put points into the cumulative distribution: E[count of v] = N · p_v
whichever is used. They differ in how much the counts vary.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["counted", "drawn", "independent_points", "systematic_points"]


def independent_points(uniform: Tensor) -> Tensor:
    """Return points of N independent draws, ascending, from N uniform numbers a position [C, N].

    Random sampling knowledge distillation as published: Anshumann et al., arXiv 2503.16870, section 4.
    """
    return uniform.sort(-1).values


def systematic_points(offsets: Tensor, draws: int) -> Tensor:
    """Return points (k + u) / N for k = 0 … N − 1, [C, N], from one uniform number u a position [C].

    Systematic sampling (Madow and Madow, Annals of Mathematical Statistics 15, 1944): the count of a token of probability p
    is N·p rounded down or up, where that of independent draws has the variance N·p·(1 − p).
    """
    import torch

    return (torch.arange(draws, device=offsets.device) + offsets[:, None]) / draws


def drawn(probabilities: Tensor, points: Tensor) -> Tensor:
    """Return the tokens at `points` of the cumulative distribution over the vocabulary, ascending like these.

    Args:
        probabilities: [C, V], not negative; need not sum to 1 exactly. Tokens of probability 0 are never drawn.
        points: [C, N] in [0, 1), ascending.

    Returns:
        [C, N] int64.
    """
    import torch

    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    found = torch.searchsorted(cumulative, points.double() * cumulative[:, -1:], right=True)
    # A point that rounding puts at the very end belongs to the last token that is possible at all.
    possible = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return found.minimum(possible)


def counted(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens were drawn and how often: ids [C, K] ascending, padded with -1, counts [C, K], with 0.

    Args:
        tokens: [C, N], ascending; K is the greatest number of different ones in a position.
    """
    import torch

    begins = torch.ones_like(tokens, dtype=torch.bool)
    begins[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    column = begins.cumsum(-1) - 1
    width = int(column[:, -1].max()) + 1 if tokens.numel() else 0
    ids = torch.full((len(tokens), width), -1, dtype=tokens.dtype, device=tokens.device)
    counts = torch.zeros_like(ids)
    return ids.scatter_(1, column, tokens), counts.scatter_add_(1, column, torch.ones_like(tokens))
