"""Reverse KL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._softened import FLOOR, by_logits, distribution

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["reverse_kl", "reverse_kl_gradient"]


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(q ‖ p) = Σ_v q_v·log(q_v / p_v), p the teacher's and q the student's softmax at temperature T.

    A log p_v below −100 counts as −100, so that one token that the teacher excludes costs at most 100 nats.
    The student learns to say only what the teacher finds likely, and may leave out some of it. 0 if and only if p = q.
    Gu et al. (MiniLLM), arXiv 2306.08543, equation 1, there over whole sequences of the student's own; here token by
    token on given text, as in Agarwal et al. (GKD), arXiv 2306.13649. Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.

    Returns:
        [C], in nats.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    return (q_log.exp() * (q_log.clamp(min=FLOOR) - p_log.clamp(min=FLOOR))).sum(-1)


def reverse_kl_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `reverse_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    ∂D/∂q = log(q / p) + 1. Arguments as in `reverse_kl`.
    """
    (_, p_log), (q, q_log) = distribution(teacher_logits, temperature), distribution(student_logits, temperature)
    by_q = q_log.clamp_(min=FLOOR).sub_(p_log.clamp_(min=FLOOR))
    return (q * by_q).sum(-1), by_logits(q, by_q, temperature)
