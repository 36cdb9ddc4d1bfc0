"""The divergence of two likelihoods of a span of text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["span_divergence"]

LEAST = 1e-6
"""Nats subtracted from every span's log-likelihood, so that no logarithm is of 0, as in the authors' code."""
MOST = 1e30
"""Stands for −log 0."""


def span_divergence(student: Tensor, teacher: Tensor, temperature: float = 100.0) -> Tensor:
    """Return τ · [p̂·log(p̂ / q̂) + (1 − p̂)·log((1 − p̂) / (1 − q̂))], p̂ = p^(1/τ), q̂ = q^(1/τ).

    p and q are the probabilities that teacher and student give to the same span of text, so this compares two outcomes:
    the span comes, or something else does. It is the summand of the objective of Minixhofer et al. (ALM), arXiv 2503.20083,
    section 3, f(p̂ ‖ q̂) + f(1 − p̂ ‖ 1 − q̂), with f(a ‖ b) = a·log(a / b), the KL divergence. The factor τ is ours: it keeps
    the value from shrinking as 1/τ, so that τ changes what counts and not how much. τ → ∞ gives b − a + a·log(a / b) of
    the costs a = −log p and b = −log q. The derivative by log q is −(p̂ − q̂) / (1 − q̂).

    0 if and only if p = q (up to 1e-6 nats, subtracted from both log-likelihoods), else positive.

    Args:
        student: [S] log-likelihoods of spans: the sums of their tokens'.
        teacher: [S], of the same spans.
        temperature: τ > 0; the authors take 100. At 1 likely spans count most, and unlikely ones next to nothing.

    Returns:
        [S], in nats.
    """
    a, b = ((LEAST - side.clamp(min=-MOST, max=0)) / temperature for side in (teacher, student))
    comes, other = (-a).exp(), -(-a).expm1()
    return temperature * (comes * (b - a) + other * (other.log() - (-(-b).expm1()).log()))
