"""Decides which proposed tokens stay, so that the text is the target's (Leviathan et al. 2023, arXiv 2211.17192)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["draw", "keep_likeliest", "keep_samples"]


def keep_likeliest(drafted: Sequence[int], logits: Tensor) -> list[int]:
    """Return the drafted tokens up to the first that is not the target's likeliest, and the likeliest one there.

    `logits` [drafted + 1, V] are the target's, each predicting a drafted token, the last one the token after them.
    """
    likeliest: list[int] = logits.argmax(-1).tolist()
    kept = next((at for at, token in enumerate(drafted) if token != likeliest[at]), len(drafted))
    return likeliest[: kept + 1]


def keep_samples(
    drafted: Sequence[int], drafts: Sequence[Tensor], targets: Sequence[Tensor], generator: torch.Generator
) -> list[int]:
    """Return the drafted tokens up to the first that is rejected, and a token of the target in its place or after them.

    Token x was drawn from q and is accepted with probability min(1, p(x) / q(x)); a rejected one is replaced by a draw from
    max(0, p - q), normalised. Then each token has the distribution p.

    Args:
        drafted: the tokens proposed.
        drafts: for each of them, the distribution q [V] that it was drawn from.
        targets: the target's distributions p [V], one more than tokens.
        generator: of the device of all of them.
    """
    for at, (token, q, p) in enumerate(zip(drafted, drafts, targets, strict=False)):
        chance = torch.rand((), generator=generator, device=p.device)
        if chance * q[token] >= p[token]:
            excess = (p - q).clamp(min=0)
            # If p and q are equal, only rounding rejects.
            return [*drafted[:at], draw(excess if excess.sum() > 0 else p, generator)]
    return [*drafted, draw(targets[-1], generator)]


def draw(weights: Tensor, generator: torch.Generator) -> int:
    """Return a token drawn with these weights [V], which need not sum to 1."""
    return int(torch.multinomial(weights, 1, generator=generator))
