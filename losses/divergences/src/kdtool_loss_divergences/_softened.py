"""Distributions at a temperature without autograd, in separate memory, and their gradients by the logits.

Used by every divergence here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdtool_torch import LOWEST

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
