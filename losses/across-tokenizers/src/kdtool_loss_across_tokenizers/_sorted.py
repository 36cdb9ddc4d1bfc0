"""Distance of two distributions over different tokens: that of their sorted probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import at_least_float32

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["sorted_distance"]


def sorted_distance(student_logits: Tensor, teacher_logits: Tensor, temperature: float = 1.0) -> Tensor:
    """Return Σ_i |p_(i) − q_(i)|, p_(i) and q_(i) the i-th largest of the teacher's and the student's softmax(z / T).

    The shorter list is continued with zeros. This is the Wasserstein-1 distance under a cost that is equal for all pairs
    of tokens. Between 0 and 2; 0 if both have the same probabilities, on any tokens. Boizard et al. (ULD),
    arXiv 2402.12030, section 3. Its gradient is that of a sum of absolute values: where p_(i) = q_(i) it is 0.
    With T it shrinks as 1 / T. Not multiplied by T: the trainer does that.

    Args:
        student_logits: [C, V], any floating type; computed in float32 or better.
        teacher_logits: [C, V_T], any other number of tokens in any order; −∞ stands for probability 0.
        temperature: T > 0, for both.

    Returns:
        [C].
    """
    q, p = _sort_probabilities(student_logits, temperature), _sort_probabilities(teacher_logits, temperature)
    both = min(q.shape[-1], p.shape[-1])
    return (q[:, :both] - p[:, :both]).abs().sum(-1) + q[:, both:].sum(-1) + p[:, both:].sum(-1)


def _sort_probabilities(logits: Tensor, temperature: float) -> Tensor:
    return (at_least_float32(logits) / temperature).softmax(-1).sort(dim=-1, descending=True, stable=True).values
