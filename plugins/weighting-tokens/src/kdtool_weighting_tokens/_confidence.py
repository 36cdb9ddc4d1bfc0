"""A teacher's confidence, and weights of tokens from it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from kdtool_torch import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Of", "confidence_weight", "probability", "top_k_probability"]

Of = Literal["likeliest", "label"]
"""The token for the probability: the teacher's likeliest, or the one that follows in the text."""


def probability(logits: Tensor, labels: Tensor, of: Of = "likeliest", temperature: float = 1.0) -> Tensor:
    """Return max_v p_v, or p_y of the label y, with p = softmax(logits / T), per position.

    Args:
        logits: [C, V], any floating type; computed in float32 or better.
        labels: [C] int64; those at or above V, which these logits do not know, have probability 0.
        of: whose probability.
        temperature: T > 0.

    Returns:
        [C], from 0 to 1.
    """
    logits = at_least_float32(logits) / temperature
    known = labels < logits.shape[-1]
    chosen = logits.amax(-1) if of == "likeliest" else logits.gather(-1, labels.where(known, 0)[:, None])[:, 0]
    probabilities = (chosen - logits.logsumexp(-1)).exp().clamp(max=1)
    return probabilities if of == "likeliest" else probabilities.where(known, 0)


def top_k_probability(ids: Tensor, weights: Tensor, labels: Tensor, of: Of = "likeliest") -> Tensor:
    """Return the same from only a teacher's likeliest tokens; a label that is not among them counts as 0.

    Its probability is below the least of the K, so the error is small if K is some dozen.

    Args:
        ids: [C, K] integers, −1 for none.
        weights: [C, K] probabilities, 0 for none.
        labels: [C] int64.
        of: whose probability.

    Returns:
        [C], from 0 to 1.
    """
    probabilities = weights.amax(-1) if of == "likeliest" else weights.where(ids == labels[:, None], 0).sum(-1)
    return probabilities.clamp(max=1)


def confidence_weight(probabilities: Tensor, prefer: Literal["sure", "unsure"] = "sure", power: float = 1.0) -> Tensor:
    """Return w = p^γ if sure positions are preferred, w = (1 − p)^γ if unsure ones are. Divide by the mean weight.

    p^1 of the likeliest token is "confidence-weighted by teacher max" (Furlanello et al., arXiv 1805.04770), which divides
    by the sum over the batch. (1 − p)^1 of the label is the teacher's uncertainty, by which Zhong et al. (ATKD), arXiv
    2402.11890, separate hard tokens from easy ones. (1 − p)^γ is the factor of the focal loss (Lin et al., arXiv
    1708.02002, section 3.2), here with the teacher's p in place of the student's.

    Args:
        probabilities: [C], from 0 to 1.
        prefer: which positions count more.
        power: γ ≥ 0; at 0 all positions count alike.

    Returns:
        [C], relative.
    """
    return (probabilities if prefer == "sure" else 1 - probabilities).pow(power)
