"""Sample tokens from a teacher's distribution; relative frequencies are unbiased estimates of its probabilities.

Plain functions for any training loop. Both designs place points in the cumulative distribution, so E[count of v] = N · p_v
for either. They differ in the variance of the counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["count_samples", "independent_points", "sample_tokens", "systematic_points"]


def independent_points(uniform: Tensor) -> Tensor:
    """Return the points of N independent samples, ascending, from N uniform numbers per position [C, N].

    Random sampling knowledge distillation as published: Anshumann et al., arXiv 2503.16870, section 4.
    """
    return uniform.sort(-1).values


def systematic_points(offsets: Tensor, samples: int) -> Tensor:
    """Return points (k + u) / N for k = 0 … N − 1, [C, N], from one uniform number u per position [C].

    Systematic sampling (Madow and Madow, Annals of Mathematical Statistics 15, 1944): the count of a token of probability p
    is N·p rounded down or up, while that of independent samples has the variance N·p·(1 − p).
    """
    import torch

    return (torch.arange(samples, device=offsets.device) + offsets[:, None]) / samples


def sample_tokens(probabilities: Tensor, points: Tensor) -> Tensor:
    """Return the tokens at `points` of the cumulative distribution over the vocabulary, ascending like the points.

    Args:
        probabilities: [C, V], not negative; need not sum to 1 exactly. Tokens of probability 0 are never drawn.
        points: [C, N] in [0, 1), ascending.

    Returns:
        [C, N] int64.
    """
    import torch

    cumulative = probabilities.cumsum(-1, dtype=torch.float64)
    tokens = torch.searchsorted(cumulative, points.double() * cumulative[:, -1:], right=True)
    # A point that rounding puts at the very end belongs to the last token that is possible at all.
    possible = (cumulative < cumulative[:, -1:]).sum(-1, keepdim=True)
    return tokens.minimum(possible)


def count_samples(tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct tokens, ids [C, N] ascending and padded at the end with -1, and their counts, padded with 0.

    Args:
        tokens: [C, N], ascending.
    """
    import torch

    begins = torch.ones_like(tokens, dtype=torch.bool)
    begins[:, 1:] = tokens[:, 1:] != tokens[:, :-1]
    column = begins.cumsum(-1) - 1
    ids, counts = torch.full_like(tokens, -1), torch.zeros_like(tokens)
    return ids.scatter_(1, column, tokens), counts.scatter_add_(1, column, torch.ones_like(tokens))
