"""Forward KL, on full logits, on sampled tokens and on top-k tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import LOWEST, log_probabilities

from kdtool_loss_divergences._softened import distribution, fill_padding, soften

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "forward_kl",
    "forward_kl_gradient",
    "sampled_forward_kl",
    "sampled_forward_kl_gradient",
    "top_k_forward_kl",
    "top_k_forward_kl_gradient",
]


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
