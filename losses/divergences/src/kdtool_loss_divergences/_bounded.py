"""Divergences with an upper bound: skewed KLs, the contrastive loss, generalised Jensen-Shannon, and total variation.

Skewed KLs and Jensen-Shannon compare a distribution with a mixture that contains it, which bounds the value. Functions named
`_gradient` return the analytic gradient, too.
"""

from __future__ import annotations

from math import log, log1p
from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._kl import SMALLEST, by_logits, distribution

if TYPE_CHECKING:
    from torch import Tensor


def skew_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, alpha: float = 0.1) -> Tensor:
    """Return KL(p ‖ α·p + (1 − α)·q), p the teacher's and q the student's softmax at temperature T.

    0 if and only if p = q, and never above −log α: a token that the student finds impossible cannot swamp the rest. Tends to
    forward KL as α → 0. Ko et al. (DistiLLM), arXiv 2402.03898, section 3.1. Not multiplied by T²: the trainer does that.
    Arguments and result as in `forward_kl`; `alpha` is α, between 0 and 1, both excluded, and the paper's best is 0.1.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    return to_mixture(p_log, q_log, alpha)


def skew_reverse_kl(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, alpha: float = 0.1
) -> Tensor:
    """Return KL(q ‖ (1 − α)·p + α·q), p the teacher's and q the student's softmax at temperature T.

    0 if and only if p = q, and never above −log α, even if the teacher excludes the student's tokens. Tends to reverse
    KL as α → 0. Ko et al. (DistiLLM), arXiv 2402.03898, section 3.1.
    Arguments and result as in `skew_kl`.
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
    Arguments and result as in `skew_kl`; `student_generated` is [C], 1 or True for tokens that the student wrote.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    written = student_generated.bool()[:, None]
    return to_mixture(q_log.where(written, p_log), p_log.where(written, q_log), alpha)


def jensen_shannon(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, beta: float = 0.5
) -> Tensor:
    """Return β·KL(p ‖ m) + (1 − β)·KL(q ‖ m), m = β·p + (1 − β)·q, p the teacher's and q the student's at temperature T.

    0 if and only if p = q, and never above the entropy of (β, 1 − β), at most log 2. Divided by β it tends to KL(p ‖ q) as
    β → 0; divided by 1 − β it tends to KL(q ‖ p) as β → 1: so a β near either end needs a larger weight. Agarwal et al.
    (GKD), arXiv 2306.13649, equation 1. Not multiplied by T²: the trainer does that.
    Arguments and result as in `forward_kl`; `beta` is β, between 0 and 1, both excluded.
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


def total_variation(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return ½·Σ_v |p_v − q_v|, p the teacher's and q the student's softmax at temperature T.

    From 0, if and only if p = q, to 1; symmetric. The part of the probability that would have to be moved, and so the chance
    that speculative decoding refuses the student's token (Leviathan et al., arXiv 2211.17192, section 3.2). As a loss: Wen
    et al. (f-DISTILL), arXiv 2307.15190. Its gradient does not shrink near p = q, where the KLs' does.
    With T it shrinks as 1 / T, not as 1 / T². Not multiplied by T: the trainer does that.
    Arguments and result as in `forward_kl`, but without unit.
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
