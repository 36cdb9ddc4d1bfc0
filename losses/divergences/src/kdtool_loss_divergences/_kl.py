"""KL divergences between teacher and student: forward, reverse, and both weighted by the student's error (AKL).

Forward KL is computed on full logits, on sampled tokens or on top-k tokens; reverse KL on full logits, or on the student's
likeliest tokens with all other tokens as one bucket. Functions named `_gradient` return the analytic gradient, too, without
autograd: `distribution` and `by_logits`, which other divergences use as well, work in separate memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kdtool_torch import LOWEST, at_least_float32, log_probabilities

if TYPE_CHECKING:
    from torch import Tensor

FLOOR = -100.0
"""The least logarithm of a teacher's probability in a reverse KL, which divides by it: e^-100 is below float32's numbers.

A token that the teacher excludes costs 100 nats times the student's probability of it, with a gradient of that size.
Without a floor it costs without bound, and the first such token ends the training."""
SMALLEST = 1e-37
"""Lower bound of a probability where its logarithm is taken or it divides; float32 has smaller ones, next to 0."""


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Return logits / T in new memory; float64 stays, all else becomes float32."""
    scaled = logits.clone() if logits.dtype.itemsize >= 4 else logits.float()
    return scaled if temperature == 1.0 else scaled.div_(temperature)


def distribution(logits: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return softmax(logits / T) and its logarithm, each in its own memory, for use when autograd is off.

    The logarithm follows from the logits and the largest probability: an exponential of each is all that is taken.
    """
    logs = soften(logits, temperature)
    probabilities = logs.softmax(-1)
    logs.sub_(logs.amax(-1, keepdim=True)).add_(probabilities.amax(-1, keepdim=True).log())
    return probabilities, logs.clamp_(min=LOWEST)


def by_logits(q: Tensor, by_q: Tensor, temperature: float) -> Tensor:
    """Return ∂D/∂z = q ⊙ (g − ⟨q, g⟩) / T for q = softmax(z / T) and g = ∂D/∂q, for any divergence D.

    Args:
        q: [C, V].
        by_q: g, [C, V]; becomes the result. A number added to all of a row changes nothing.
        temperature: T.
    """
    gradient = by_q.sub_((q * by_q).sum(-1, keepdim=True)).mul_(q)
    return gradient if temperature == 1.0 else gradient.div_(temperature)


def fill_padding(ids: Tensor) -> Tensor:
    """Return token numbers with another one of the same position in place of padding, 0 where there is none."""
    return ids.where(ids >= 0, ids.amax(-1, keepdim=True)).clamp(min=0).long()


def forward_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(p ‖ q) = Σ_v p_v·log(p_v / q_v), p the teacher's and q the student's softmax at temperature T.

    The student learns to cover the teacher. 0 if and only if p = q; ∂/∂z = (q − p)/T. Hinton et al., arXiv 1503.02531,
    section 2 (they state the cross-entropy; the teacher's entropy is the constant between the two). Not multiplied by T²:
    the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V], the same order of tokens; −∞ stands for probability 0.
        temperature: T > 0, for both.

    Returns:
        [C], in nats.
    """
    p_log, q_log = log_probabilities(teacher_logits, temperature), log_probabilities(student_logits, temperature)
    return (p_log.exp() * (p_log - q_log)).sum(-1)


def sampled_forward_kl(student_logits: Tensor, ids: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Return −Σ_i w_i·log q(id_i), where w are shares of samples from the teacher at temperature T.

    Its expectation over the samples is KL(p ‖ q) plus the teacher's entropy, which has no gradient: so its gradient is an
    unbiased estimate of forward KL's, and its value is not 0 at equality. Random sampling knowledge distillation, Anshumann
    et al., arXiv 2503.16870, section 4.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        ids: [C, K] integers, padded with −1.
        weights: [C, K] counts / samples, padded with 0.
        temperature: T > 0, the one that the samples were made at.

    Returns:
        [C], in nats.
    """
    q_log = log_probabilities(student_logits, temperature)
    return -(weights * q_log.gather(-1, ids.clamp(min=0).long())).sum(-1)


def top_k_forward_kl(student_logits: Tensor, ids: Tensor, weights: Tensor, temperature: float = 1.0) -> Tensor:
    """Return forward KL between distributions in which all tokens except the teacher's K are one bucket.

    Σ_i w_i·log(w_i / q_i) + w_rest·log(w_rest / q_rest), with w_rest = 1 − Σ w and q_rest the student's probability
    outside the K. 0 if p = q, or if no token was kept, and never above forward KL (the log-sum inequality): what is lost
    is how the teacher spreads the rest. Biased, as arXiv 2503.16870, section 3, shows for small K.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        ids: [C, K] integers, distinct in a row; −1 pads, in any column.
        weights: [C, K] the teacher's probabilities at temperature T, padded with 0.
        temperature: T > 0, the one that the probabilities were taken at.

    Returns:
        [C], in nats.
    """
    q_log = log_probabilities(student_logits, temperature)
    nothing, ids = (ids < 0).all(-1), fill_padding(ids)
    # Summing the other tokens is exact where 1 − Σ q would cancel, and its gradient stays finite.
    q_rest_log = q_log.scatter(-1, ids, LOWEST).logsumexp(-1).masked_fill(nothing, 0)
    # Where the K are all tokens there is no rest; what rounding leaves of 1 − Σ w must not meet log 0.
    w_rest = (1 - weights.sum(-1)).clamp(min=0).where(q_rest_log > LOWEST / 2, 0)
    inside = weights.xlogy(weights) - weights * q_log.gather(-1, ids)
    return inside.sum(-1) + w_rest.xlogy(w_rest) - w_rest * q_rest_log


def forward_kl_gradient(
    student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `forward_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V]: (q − p)/T.

    Arguments as in `forward_kl`.
    """
    (p, p_log), (q, q_log) = distribution(teacher_logits, temperature), distribution(student_logits, temperature)
    values, gradient = p_log.sub_(q_log).mul_(p).sum(-1), q.sub_(p)
    return values, gradient if temperature == 1.0 else gradient.div_(temperature)


def sampled_forward_kl_gradient(
    student_logits: Tensor, ids: Tensor, weights: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `sampled_forward_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    (Σ w · q − w)/T, with w at the sampled tokens. Arguments as in `sampled_forward_kl`.
    """
    logits, ids = soften(student_logits, temperature), ids.clamp(min=0).long()
    gradient = logits.softmax(-1)
    top, top_log = logits.amax(-1, keepdim=True), gradient.amax(-1, keepdim=True).log()
    values = (weights * (top - logits.gather(-1, ids) - top_log)).sum(-1)
    weights = (weights / temperature).to(gradient.dtype)
    return values, gradient.mul_(weights.sum(-1, keepdim=True)).scatter_add_(-1, ids, -weights)


def top_k_forward_kl_gradient(
    student_logits: Tensor, ids: Tensor, weights: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Return `top_k_forward_kl`, [C], and each value's gradient by its own row of the student's logits, [C, V].

    (q − w)/T at the K tokens, s·(q_rest − w_rest)/T at all others, with s the student's softmax over only those.
    Arguments as in `top_k_forward_kl`.
    """
    logits, padding, ids = soften(student_logits, temperature), ids < 0, fill_padding(ids)
    chosen = logits.gather(-1, ids)
    rest = logits.scatter_(-1, ids, LOWEST).softmax(-1)
    rest_log = logits.amax(-1) - rest.amax(-1).log()
    normaliser = rest_log.logaddexp(chosen.masked_fill(padding, LOWEST).logsumexp(-1))
    q_log, q_rest_log = chosen - normaliser[:, None], rest_log - normaliser
    w_rest = (1 - weights.sum(-1)).clamp(min=0).where(q_rest_log > LOWEST / 2, 0)
    inside = weights.xlogy(weights) - weights * q_log
    values = inside.sum(-1) + w_rest.xlogy(w_rest) - w_rest * q_rest_log
    by_inside = (q_log.exp().masked_fill(padding, 0) - weights) / temperature
    rest.mul_(((q_rest_log.exp() - w_rest) / temperature)[:, None])
    return values, rest.scatter_(-1, ids, 0).scatter_add_(-1, ids, by_inside.to(rest.dtype))


def reverse_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(q ‖ p) = Σ_v q_v·log(q_v / p_v), p the teacher's and q the student's softmax at temperature T.

    A log p_v below −100 counts as −100, so that one token that the teacher excludes costs at most 100 nats.
    The student learns to say only what the teacher finds likely, and may leave out some of it. 0 if and only if p = q.
    Gu et al. (MiniLLM), arXiv 2306.08543, equation 1, there over whole sequences of the student's own; here token by
    token on given text, as in Agarwal et al. (GKD), arXiv 2306.13649. Not multiplied by T²: the trainer does that.
    Arguments and result as in `forward_kl`.
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


def adaptive_kl(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0, head: float = 0.5) -> Tensor:
    """Return w·KL(p ‖ q) + (1 − w)·KL(q ‖ p), w the share of Σ_v |p_v − q_v| in the teacher's head.

    The head is the set of the teacher's likeliest tokens up to a probability of `head` together, but at least one: there
    forward KL corrects first, in the tail reverse KL. 0 if and only if p = q. w counts as a constant: it has no gradient, as
    in the authors' code. Wu et al. (AKL), arXiv 2404.02657. Sorts the vocabulary, so it takes longer than the KLs.
    In the reverse KL a log p_v below −100 counts as −100. Not multiplied by T²: the trainer does that.
    Arguments and result as in `forward_kl`; `head` is μ, from 0 up to but not including 1, the paper's 0.5.
    At 0 the head is only the likeliest token.
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
