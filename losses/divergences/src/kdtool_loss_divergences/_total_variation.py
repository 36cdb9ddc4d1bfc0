"""Total variation distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._softened import by_logits, distribution

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["total_variation", "total_variation_gradient"]


def total_variation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ½·Σ_v |p_v − q_v|, p the teacher's and q the student's softmax at temperature T.

    From 0, if and only if p = q, to 1; symmetric. The part of the probability that would have to be moved, and so the chance
    that speculative decoding refuses the student's token (Leviathan et al., arXiv 2211.17192, section 3.2). As a loss: Wen
    et al. (f-DISTILL), arXiv 2307.15190. Its gradient does not shrink near p = q, where the KLs' does.
    With T it shrinks as 1 / T, not as 1 / T². Not multiplied by T: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.

    Returns:
        [C], without unit.
    """
    p, q = log_probabilities(teacher_logits, temperature).exp(), log_probabilities(student_logits, temperature).exp()
    return (p - q).abs().sum(-1) / 2


def total_variation_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `total_variation`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    ∂D/∂q = ½·sign(q − p), 0 where the two are equal. Arguments as in `total_variation`.
    """
    (p, _), (q, _) = distribution(teacher_logits, temperature), distribution(student_logits, temperature)
    away = p.neg_().add_(q)
    return away.abs().sum(-1) / 2, by_logits(q, away.sign_().div_(2), temperature)
