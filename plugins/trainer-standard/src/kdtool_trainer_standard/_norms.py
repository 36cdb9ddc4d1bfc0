"""How strongly each term pulls: the norm of its weighed gradient, on a sample of positions.

Called by the distillation module every tenth step or so. A term whose norm is far below the others' does nothing, which
its value alone does not show.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import chain

import kdtool
import torch
from torch import Tensor

from kdtool_trainer_standard._head import HeadWork
from kdtool_trainer_standard._projection import Projection

__all__ = ["SAMPLED_POSITIONS", "seen_of", "squared_norms_at_logits", "squared_norms_at_states"]

SAMPLED_POSITIONS = 64
"""Positions of a micro-batch that are looked at: about 2 % of a step's time for two losses and 49,152 tokens."""


def squared_norms_at_logits(hidden: Sequence[Tensor], work: HeadWork, divisor: Tensor) -> Tensor:
    """Return, for each token loss, the squared norm of its gradient by all N x V logits, estimated from a sample.

    `hidden` are the final states [N, H] of each pass; of two, the norm is that of both gradients together.
    """
    count, device = hidden[0].shape[0], hidden[0].device
    if count == 0:
        return torch.zeros(len(work.loss.terms), device=device)
    picked = torch.linspace(0, count - 1, min(count, SAMPLED_POSITIONS), device=device).round().long()
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        projection = Projection(work.head, work.dtype)
        logits = tuple(projection.logits(one[picked]) for one in hidden)
        whole = slice(0, len(picked))
        rows = work.chunk_rows(picked, work.teachers.of_terms(work.teachers.project(picked), whole, picked))
        gradients = [work.loss.of_term(index, logits, rows)[0] for index in range(len(work.loss.terms))]
        squares = [torch.stack([one.float().square().sum() for one in passes]).sum() for passes in gradients]
    return torch.stack(squares) * (count / len(picked)) / divisor**2


def seen_of(outputs: kdtool.ModelOutputs) -> list[Tensor]:
    """Return all of the student that a sequence loss may have used: states, attention maps, projections."""
    projections = chain.from_iterable(outputs.projections.values())
    return [outputs.last, *outputs.hidden.values(), *outputs.attentions.values(), *projections]


def squared_norms_at_states(weighed: Tensor, states: Iterable[Tensor]) -> Tensor:
    """Return the squared norm of a sequence loss's gradient by the states it may have used; the graph is kept."""
    inputs = [tensor for tensor in states if tensor.requires_grad]
    if not weighed.requires_grad or not inputs:
        return torch.zeros((), device=weighed.device)
    gradients = torch.autograd.grad(weighed, inputs, retain_graph=True, allow_unused=True)
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=weighed.device)
