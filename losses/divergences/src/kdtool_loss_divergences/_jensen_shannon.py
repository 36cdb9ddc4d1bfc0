"""Generalised Jensen-Shannon divergence."""

from __future__ import annotations

from math import log, log1p
from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._softened import SMALLEST, by_logits, distribution

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["jensen_shannon", "jensen_shannon_gradient"]


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """Return β·KL(p ‖ m) + (1 − β)·KL(q ‖ m), m = β·p + (1 − β)·q, p the teacher's and q the student's at temperature T.

    0 if and only if p = q, and never above the entropy of (β, 1 − β), at most log 2. Divided by β it tends to KL(p ‖ q) as
    β → 0; divided by 1 − β it tends to KL(q ‖ p) as β → 1: so a β near either end needs a larger weight. Agarwal et al.
    (GKD), arXiv 2306.13649, equation 1. Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.
        beta: β, between 0 and 1, both excluded.

    Returns:
        [C], in nats.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    m_log = (p_log + log(beta)).logaddexp(q_log + log1p(-beta))
    forward = (p_log.exp() * (p_log - m_log)).sum(-1)
    backward = (q_log.exp() * (q_log - m_log)).sum(-1)
    return beta * forward + (1 - beta) * backward


def jensen_shannon_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, beta: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return `jensen_shannon`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    ∂D/∂q = (1 − β)·log(q / m). Arguments as in `jensen_shannon`.
    """
    (p, p_log), (q, q_log) = distribution(teacher_logits, temperature), distribution(student_logits, temperature)
    m_log = (beta * p).add_(q, alpha=1 - beta).clamp_(min=SMALLEST).log_()
    by_q = q_log.sub_(m_log).mul_(1 - beta)
    values = beta * p_log.sub_(m_log).mul_(p).sum(-1) + (q * by_q).sum(-1)
    return values, by_logits(q, by_q, temperature)
