"""Adaptive KL: forward and reverse KL, weighted by where the student's error is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import log_probabilities

from kdtool_loss_divergences._softened import FLOOR

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["adaptive_kl"]


def adaptive_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, head: float = 0.5) -> Tensor:
    """Return w·KL(p ‖ q) + (1 − w)·KL(q ‖ p), w the share of Σ_v |p_v − q_v| in the teacher's head.

    The head is the set of the teacher's likeliest tokens up to a probability of `head` together, but at least one: there
    forward KL corrects first, in the tail reverse KL. 0 if and only if p = q. w counts as a constant: it has no gradient, as
    in the authors' code. Wu et al. (AKL), arXiv 2404.02657. Sorts the vocabulary, so it takes longer than the KLs.
    In the reverse KL a log p_v below −100 counts as −100. Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.
        head: μ, from 0 up to but not including 1; the paper's is 0.5. At 0 the head is only the likeliest token.

    Returns:
        [C], in nats.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    p, q = p_log.exp(), q_log.exp()
    likeliest, order = p.detach().sort(dim=-1, descending=True, stable=True)
    gaps = (likeliest - q.detach().gather(-1, order)).abs()
    beyond = likeliest.cumsum(-1)[:, 1:] > head
    in_tail = gaps[:, 1:].where(beyond, 0).sum(-1) / gaps.sum(-1).clamp(min=1e-30)
    return (1 - in_tail) * (p * (p_log - q_log)).sum(-1) + in_tail * (
        q * (q_log.clamp(min=FLOOR) - p_log.clamp(min=FLOOR))
    ).sum(-1)
