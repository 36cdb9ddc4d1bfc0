"""Reverse KL on the student's likeliest tokens, with all other tokens as one bucket."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kdtool_torch import LOWEST, at_least_float32, log_probabilities

from kdtool_loss_divergences._softened import FLOOR, fill_padding, soften

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["Support", "support_from_chosen", "support_from_logits", "support_reverse_kl", "support_reverse_kl_gradient"]

_LEAST_REST = 2.0**-23
"""Least probability of the rest if it follows from 1 − Σ p: float32 does not resolve less there."""


class Support(NamedTuple):
    """K token ids per position, with the teacher's log-probabilities of them and of all other tokens together."""

    ids: Tensor
    """[C, K] int64, distinct in a row; -1 pads."""
    logs: Tensor
    """[C, K]; any number at padding."""
    rest_log: Tensor
    """[C]."""


def support_from_logits(student_logits: Tensor, teacher_logits: Tensor, temperature: float, size: int) -> Support:
    """Return the student's `size` likeliest tokens with the teacher's log-probabilities, the rest summed exactly.

    Args:
        student_logits: [C, V]; only their order matters.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, the teacher's.
        size: K; at most V are taken.
    """
    ids = student_logits.detach().topk(min(size, student_logits.shape[-1])).indices
    p_log = log_probabilities(teacher_logits, temperature)
    return Support(ids, p_log.gather(-1, ids), p_log.scatter(-1, ids, LOWEST).logsumexp(-1))


def support_from_chosen(ids: Tensor, log_probabilities: Tensor, size: int) -> Support:
    """Return the first `size` of the requested tokens. The rest is 1 − Σ p, at least 2⁻²³.

    Args:
        ids: [C, K] integers, the student's likeliest first, −1 pads.
        log_probabilities: [C, K], the teacher's at temperature T.
        size: number of columns to use; fewer if there are fewer.
    """
    ids, logs = ids[:, :size].long(), at_least_float32(log_probabilities[:, :size])
    inside = logs.exp().masked_fill(ids < 0, 0).sum(-1)
    return Support(ids, logs, (1 - inside).clamp(min=_LEAST_REST).log())


def support_reverse_kl(student_logits: Tensor, support: Support, temperature: float = 1.0) -> Tensor:
    """Return reverse KL between distributions in which all tokens outside the support are one bucket.

    Σ_i q_i·log(q_i / p_i) + q_rest·log(q_rest / p_rest). 0 if p = q, and never above reverse KL (the log-sum inequality):
    what is lost is how the student spreads the rest, which is much if the student is still far from the teacher.
    A teacher's logarithm below −100 counts as −100. Not multiplied by T²: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        support: the tokens, with the teacher's log-probabilities at temperature T.
        temperature: T > 0, of both.

    Returns:
        [C], in nats.
    """
    q_log, padding, ids = log_probabilities(student_logits, temperature), support.ids < 0, fill_padding(support.ids)
    inside_log, p_log = q_log.gather(-1, ids), support.logs.clamp(min=FLOOR)
    # Summing the other tokens is exact where 1 − Σ q would cancel, and its gradient stays finite.
    rest_log = q_log.scatter(-1, ids, LOWEST).logsumexp(-1)
    inside = inside_log.exp() * (inside_log.clamp(min=FLOOR) - p_log)
    rest = rest_log.exp() * (rest_log.clamp(min=FLOOR) - support.rest_log.clamp(min=FLOOR))
    return inside.masked_fill(padding, 0).sum(-1) + rest


def support_reverse_kl_gradient(
    student_logits: Tensor, support: Support, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `support_reverse_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    q_v·(log(q / p) − D)/T, with the ratio of the token's own bucket and D the value. Arguments as in `support_reverse_kl`.
    """
    logits, padding, ids = soften(student_logits, temperature), support.ids < 0, fill_padding(support.ids)
    normaliser = logits.logsumexp(-1, keepdim=True)
    inside_log = logits.gather(-1, ids) - normaliser
    q_rest = logits.sub_(normaliser).scatter_(-1, ids, LOWEST)
    rest_log = q_rest.logsumexp(-1)
    ratio = inside_log.clamp(min=FLOOR) - support.logs.clamp(min=FLOOR)
    rest_ratio = rest_log.clamp(min=FLOOR) - support.rest_log.clamp(min=FLOOR)
    q_inside = inside_log.exp().masked_fill(padding, 0)
    values = (q_inside * ratio).sum(-1) + rest_log.exp() * rest_ratio
    gradient = q_rest.exp_().mul_(((rest_ratio - values) / temperature)[:, None])
    by_inside = q_inside * (ratio - values[:, None]) / temperature
    return values, gradient.scatter_add_(-1, ids, by_inside.masked_fill(padding, 0).to(gradient.dtype))
