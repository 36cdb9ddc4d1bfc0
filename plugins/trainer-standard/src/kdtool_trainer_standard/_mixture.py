"""Several teachers as one, in probability space: logits of a mixture, and tokens drawn from one.

Called on each chunk, so that no teacher's logits exist for more than the chunk's positions.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import log

import torch
from torch import Tensor

__all__ = ["joined_samples", "mixed_logits"]


def mixed_logits(logits: Sequence[Tensor], shares: Sequence[float], temperature: float) -> Tensor:
    """Return T · log p with p = Σ_i share_i · softmax(logits_i / T): logits whose softmax at T is the mixture.

    So any loss that divides logits by T before its softmax gets p, like one teacher's distribution. The sum is computed in
    log space, so logits stay finite for tokens that all teachers find next to impossible.

    Args:
        logits: each teacher's, [C, V], of any floating types; computed in float32 or better.
        shares: one per teacher, above 0, summing to 1.
        temperature: T > 0, the term's.

    Returns:
        [C, V]; for one teacher, its logits unchanged.
    """
    if len(logits) == 1:
        return logits[0]
    mixture: Tensor | None = None
    for of_teacher, share in zip(logits, shares, strict=True):
        scaled = of_teacher.to(torch.promote_types(of_teacher.dtype, torch.float32)) / temperature
        weighed = scaled.log_softmax(-1) + log(share)
        mixture = weighed if mixture is None else mixture.logaddexp(weighed)
    assert mixture is not None  # noqa: S101 - there is a teacher
    return mixture * temperature


def joined_samples(ids: Sequence[Tensor], weights: Sequence[Tensor], shares: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Return all teachers' tokens [C, ΣK], weights times the teacher's share.

    Σ_i share_i · (an unbiased estimate of p_i) is an unbiased estimate of the mixture. An id that several teachers drew
    appears several times.
    """
    weighed = [of_teacher * share for of_teacher, share in zip(weights, shares, strict=True)]
    return torch.cat(list(ids), -1), torch.cat(weighed, -1)
