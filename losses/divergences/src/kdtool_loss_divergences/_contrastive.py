"""The contrastive loss: which of two skewed KLs is learned depends on who wrote the token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._skew import to_mixture

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["contrastive"]


def contrastive(
    student_logits: Tensor,
    teacher_logits: Tensor,
    student_generated: Tensor,
    temperature: float = 1.0,
    alpha: float = 0.1,
) -> Tensor:
    """Return `skew_reverse_kl` for tokens that the student wrote itself, and `skew_kl` elsewhere.

    KL(q ‖ (1 − α)·p + α·q) lowers tokens that the student favours and the teacher does not, KL(p ‖ α·p + (1 − α)·q) raises
    those that the teacher prefers: the contrastive loss of Ko et al. (DistiLLM-2), arXiv 2503.07067. There a text of the
    teacher's and one of the student's make a pair, and α adapts to each; here the two kinds count as their tokens do, α is
    fixed, and the corpus stands for the teacher (a corpus of its answers does so to the letter). 0 if and only if p = q,
    never above −log α. Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        student_generated: [C], 1 or True for tokens that the student wrote.
        temperature: T > 0, for both.
        alpha: α, between 0 and 1, both excluded.

    Returns:
        [C], in nats.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    written = student_generated.bool()[:, None]
    return to_mixture(q_log.where(written, p_log), p_log.where(written, q_log), alpha)
