"""Strength of each term: the norm of its weighed gradient by states of the student that all terms share.

These are the final states, or the embedding's output if a term compares layers inside the models: norms at different points
have no common unit. Called by the distillation module about every tenth step, or at every step if a weighting uses them.
A term whose norm is far below the others' has no effect, although its value may look normal.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from kdtool_trainer_standard._head import HeadWork
from kdtool_trainer_standard._projection import Projection, product

__all__ = [
    "SAMPLED_POSITIONS",
    "shared_states",
    "squared_norms_at_last",
    "squared_norms_of_sequence_loss",
    "squared_norms_through",
]

SAMPLED_POSITIONS = 64
"""Sampled positions of a micro-batch: about 2 % of a step's time for two token losses and 49,152 tokens, if norms are taken
at the final states. At the embedding's output each loss costs a backward pass through the backbone."""


@contextmanager
def shared_states(embedding: nn.Module | None) -> Iterator[list[Tensor]]:
    """Collect the embedding's outputs while the block runs, one tensor [B, L, H] per pass; none without an embedding."""
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        states.append(output if output.requires_grad else output.detach().requires_grad_())  # frozen embeddings
        return states[-1]

    hook = None if embedding is None else embedding.register_forward_hook(keep)
    try:
        yield states
    finally:
        if hook is not None:
            hook.remove()


def squared_norms_at_last(hidden: Sequence[Tensor], work: HeadWork, divisor: Tensor) -> Tensor:
    """Return, for each token loss, the squared norm of its gradient by the final states, estimated from some positions.

    `hidden` are the final states [N, H] of each pass; with two passes, the norm is that of both gradients together.
    """
    count, device = hidden[0].shape[0], hidden[0].device
    if count == 0:
        return torch.zeros(len(work.loss.terms), device=device)
    sampled = torch.linspace(0, count - 1, min(count, SAMPLED_POSITIONS), device=device).round().long()
    squares = [
        torch.stack([gradient.float().square().sum() for gradient in passes]).sum()
        for passes in _by_last(hidden, work, sampled)
    ]
    return torch.stack(squares) * (count / len(sampled)) / divisor**2


def squared_norms_through(
    states: Sequence[Tensor], hidden: Sequence[Tensor], row: Tensor, work: HeadWork, divisor: Tensor
) -> Tensor:
    """Return, for each token loss, the squared norm of its gradient by `states`, from which `hidden` were computed.

    Rows do not see each other, so the norm of all is estimated from some rows, which hold `SAMPLED_POSITIONS` or more. `row`
    [N] is the row of each position. The graph is kept.
    """
    numbers, counts = row.unique(return_counts=True)  # type: ignore[no-untyped-call]
    if not len(numbers):
        return torch.zeros(len(work.loss.terms), device=row.device)
    few = min(len(numbers), -(-SAMPLED_POSITIONS * len(numbers) // int(counts.sum())))
    chosen = numbers[torch.linspace(0, len(numbers) - 1, few, device=row.device).round().long()]
    sampled = torch.isin(row, chosen).nonzero()[:, 0]
    squares = []
    for passes in _by_last(hidden, work, sampled):
        given = [
            torch.zeros_like(final).index_copy(0, sampled, gradient.to(final.dtype))
            for final, gradient in zip(hidden, passes, strict=False)
        ]
        by_states = torch.autograd.grad(hidden[: len(given)], states, given, retain_graph=True, allow_unused=True)
        squares.append(_total(by_states, row.device))
    return torch.stack(squares) * (len(numbers) / few) / divisor**2


def squared_norms_of_sequence_loss(weighed: Tensor, states: Iterable[Tensor]) -> Tensor:
    """Return the squared norm of a sequence loss's gradient by states that it follows from; the graph is kept."""
    inputs = [tensor for tensor in states if tensor.requires_grad]
    if not weighed.requires_grad or not inputs:
        return torch.zeros((), device=weighed.device)
    return _total(torch.autograd.grad(weighed, inputs, retain_graph=True, allow_unused=True), weighed.device)


def _by_last(hidden: Sequence[Tensor], work: HeadWork, sampled: Tensor) -> list[list[Tensor]]:
    """Return each term's undivided gradients by the final states of each pass, [C, H], at these of the positions."""
    parts_by_term: list[list[list[Tensor]]] = [[] for _ in work.loss.terms]
    with torch.no_grad(), torch.autocast(sampled.device.type, enabled=False):
        projection = Projection(work.head, work.dtype)
        for rows in torch.split(sampled, work.loss_chunk_size):
            logits = tuple(projection.logits(of_pass[rows]) for of_pass in hidden)
            teachers = work.teachers.of_terms(work.teachers.project(rows), slice(0, len(rows)), rows)
            chunk = work.chunk_rows(rows, teachers)
            for index, parts in enumerate(parts_by_term):
                gradients = work.loss.of_term(index, logits, chunk)[0]
                by_head = [projection.before_cap(g, z) for g, z in zip(gradients, logits, strict=False)]
                parts.append([product(of_pass.to(projection.dtype), projection.weight) for of_pass in by_head])
    return [[torch.cat(parts) for parts in zip(*of_term, strict=True)] for of_term in parts_by_term]


def _total(gradients: Iterable[Tensor | None], device: torch.device) -> Tensor:
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=device)
