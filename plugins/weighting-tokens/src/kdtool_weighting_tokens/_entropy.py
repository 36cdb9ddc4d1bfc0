"""Entropy of a distribution over the next token, and a weight made of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["entropy", "entropy_weight"]


def entropy(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return H(p) = −Σ_v p_v·log p_v with p = softmax(logits / T), per position.

    From 0, where one token is certain, to log V.

    Args:
        logits: [C, V], any floating type; computed in float32 or better. −∞ stands for probability 0.
        temperature: T > 0.

    Returns:
        [C], in nats.
    """
    logs = log_probabilities(logits, temperature)
    return -(logs.exp() * logs).sum(-1).clamp(max=0)


def entropy_weight(entropies: Tensor, threshold: float = 0.0, power: float = 1.0) -> Tensor:
    """Return w = [H ≥ τ]·H^γ: nothing below a threshold, the entropy's power above it. Divide by the mean weight.

    τ = 0, γ = 1 weighs in proportion to the entropy ("Weighted KD" in table 1 of Tavor et al., arXiv 2602.01395). τ > 0,
    γ = 0 keeps some positions and drops the rest, all kept ones alike: the selection of SE-KD (section 4 there), which
    keeps the fifth of each sequence with the highest entropy and averages over it. That τ is a quantile of the sequence;
    here it is a number, so that a weight is its position's own and the share that is kept differs from text to text.

    Args:
        entropies: [C], in nats, from 0.
        threshold: τ ≥ 0, in nats.
        power: γ ≥ 0.

    Returns:
        [C], relative.
    """
    return entropies.pow(power).where(entropies >= threshold, 0)
