"""Skewed KL divergences: some of the one distribution is mixed into the other, which bounds the value."""

from __future__ import annotations

from math import log, log1p
from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._softened import SMALLEST, by_logits, distribution

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["skew_kl", "skew_kl_gradient", "skew_reverse_kl", "skew_reverse_kl_gradient", "to_mixture"]


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, alpha: float = 0.1) -> Tensor:
    """Return KL(p ‖ α·p + (1 − α)·q), p the teacher's and q the student's softmax at temperature T.

    0 if and only if p = q, and never above −log α: a token that the student finds impossible cannot swamp the rest. Tends to
    forward KL as α → 0. Ko et al. (DistiLLM), arXiv 2402.03898, section 3.1. Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.
        alpha: α, between 0 and 1, both excluded; the paper's best is 0.1.

    Returns:
        [C], in nats.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    return to_mixture(p_log, q_log, alpha)


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, alpha: float = 0.1
) -> Tensor:
    """Return KL(q ‖ (1 − α)·p + α·q), p the teacher's and q the student's softmax at temperature T.

    0 if and only if p = q, and never above −log α, even if the teacher excludes the student's tokens. Tends to reverse
    KL as α → 0. Ko et al. (DistiLLM), arXiv 2402.03898, section 3.1. Arguments and result as in `skew_kl`.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    return to_mixture(q_log, p_log, alpha)


def to_mixture(of: Tensor, other: Tensor, alpha: float) -> Tensor:
    """Return KL(of ‖ α·of + (1 − α)·other) of log-probabilities [C, V]."""
    mixture = (of + log(alpha)).logaddexp(other + log1p(-alpha))
    return (of.exp() * (of - mixture)).sum(-1)


def skew_kl_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Return `skew_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    ∂D/∂q = −(1 − α)·p / m, with m the mixture. Arguments as in `skew_kl`.
    """
    (p, p_log), (q, _) = distribution(teacher_logits, temperature), distribution(student_logits, temperature)
    m = (alpha * p).add_(q, alpha=1 - alpha).clamp_(min=SMALLEST)
    by_q = (p / m).mul_(alpha - 1)
    return p_log.sub_(m.log_()).mul_(p).sum(-1), by_logits(q, by_q, temperature)


def skew_reverse_kl_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, alpha: float = 0.1
) -> tuple[Tensor, Tensor]:
    """Return `skew_reverse_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    ∂D/∂q = log(q / m) + 1 − α·q / m, with m the mixture. Arguments as in `skew_kl`.
    """
    (p, _), (q, q_log) = distribution(teacher_logits, temperature), distribution(student_logits, temperature)
    m = p.mul_(1 - alpha).add_(q, alpha=alpha).clamp_(min=SMALLEST)
    ratio = q / m
    by_q = q_log.sub_(m.log_())
    values = (q * by_q).sum(-1)
    return values, by_logits(q, by_q.sub_(ratio, alpha=alpha), temperature)
