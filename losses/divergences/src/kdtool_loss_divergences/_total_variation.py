"""Total variation distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_loss_divergences._softened import log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["total_variation"]


def total_variation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ½·Σ_v |p_v − q_v|, p the teacher's and q the student's softmax at temperature T.

    From 0, if and only if p = q, to 1; symmetric. The part of the probability that would have to be moved, and so the chance
    that speculative decoding refuses the student's token (Leviathan et al., arXiv 2211.17192, section 3.2). As a loss: Wen
    et al. (f-DISTILL), arXiv 2307.15190. Its gradient does not shrink near p = q, where the KLs' does.
    Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.

    Returns:
        [C], without unit.
    """
    p, q = log_probabilities(teacher_logits, temperature).exp(), log_probabilities(student_logits, temperature).exp()
    return (p - q).abs().sum(-1) / 2
