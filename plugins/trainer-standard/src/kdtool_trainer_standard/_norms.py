"""Strength of each term: the norm of its weighed gradient by states of the student that all terms share.

These are the final states, or the embedding's output if a term compares layers inside the models: norms at different points
have no common unit. Called by the distillation module about every tenth step, or at every step if a weighting uses them.
A term whose norm is far below the others' has no effect, although its value may look normal.

The graph of the step itself is never used: kernels that compute gradients in place (Liger) or free what they saved
(torch.compile) allow one backward pass. Final states are leaves here, and the embedding's output comes from a separate
forward pass for each term, over few rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import kdtool
import torch
from torch import Tensor, nn

from kdtool_trainer_standard._head import HeadWork
from kdtool_trainer_standard._micro_batch import MicroBatch, imitated_by_row, select_rows
from kdtool_trainer_standard._projection import product
from kdtool_trainer_standard._sequence_head import SequenceHead

__all__ = [
    "SAMPLED_POSITIONS",
    "objective_of_token_loss",
    "squared_norm_of_sequence_loss",
    "squared_norms_at_embedding",
    "squared_norms_at_last",
]

SAMPLED_POSITIONS = 64
"""Sampled positions of a micro-batch: about 2 % of a step's time for two token losses and 49,152 tokens, if norms are taken
at the final states. At the embedding's output each loss costs a pass over the few rows that hold them."""


def squared_norms_at_last(work: HeadWork, divisor: Tensor) -> Tensor:
    """Return, for each token loss, the squared norm of its gradient by the final states, estimated from some positions.

    With two passes, the norm is that of both gradients together.
    """
    count, device = work.hidden[0].shape[0], work.hidden[0].device
    if count == 0:
        return torch.zeros(len(work.loss.terms), device=device)
    sampled = torch.linspace(0, count - 1, min(count, SAMPLED_POSITIONS), device=device).round().long()
    terms = range(len(work.loss.terms))
    squares = [_sum_of_squares(passes, device) for passes in _by_last(work, sampled, terms)]
    return torch.stack(squares) * (count / len(sampled)) / divisor**2


def squared_norm_of_sequence_loss(objective: Callable[[kdtool.StepView], Tensor], view: kdtool.StepView) -> Tensor:
    """Return the squared norm of a sequence loss's gradient by the final states, for one that sees no others.

    `objective` returns the loss, weighted and divided, of a view.
    """
    passes = [view.student] if view.second is None else [view.student, view.second]
    leaves = [outputs.last.detach().requires_grad_() for outputs in passes]
    of_leaves = [replace(outputs, last=leaf) for outputs, leaf in zip(passes, leaves, strict=True)]
    head = view.head.frozen() if isinstance(view.head, SequenceHead) else view.head
    second = of_leaves[1] if len(passes) > 1 else None
    value = objective(replace(view, student=of_leaves[0], second=second, head=head))
    return _squared_norm(value, leaves)


def squared_norms_at_embedding(
    module: nn.Module,
    terms: int,
    embedding: nn.Module,
    micro_batch: MicroBatch,
    tokens: float,
) -> Tensor:
    """Return each term's squared norm by the embedding's output, [terms], each from a separate forward pass.

    Rows do not see each other, so the norm of all is estimated from some rows, which hold `SAMPLED_POSITIONS` or more.
    Random numbers are drawn aside: the step draws the same as without this.

    Args:
        module: the distillation module, whose forward computes one term if asked to.
        terms: how many terms it has.
        embedding: its student's embedding.
        micro_batch: B rows.
        tokens: positions in the loss mask of the whole step.
    """
    rows, share = _sampled_rows(micro_batch.batch)
    few, device, squares = select_rows(rows, micro_batch), micro_batch.batch.labels.device, []
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        for term in range(terms):
            with _states_of(embedding) as states:
                output = module(few, tokens, term=term)
            squares.append(_squared_norm(output["loss"], states) / output["divisor"] ** 2)
    return torch.stack(squares) / share


def objective_of_token_loss(work: HeadWork, term: int) -> Tensor:
    """Return a number whose gradient by the final states [N, H] of each pass is that of one token loss, undivided."""
    (gradients,) = _by_last(work, torch.arange(len(work.hidden[0]), device=work.hidden[0].device), [term])
    products = (states.float() * gradient for states, gradient in zip(work.hidden, gradients, strict=False))
    return torch.stack([each.sum() for each in products]).sum()


def _sampled_rows(batch: kdtool.Batch) -> tuple[list[int], float]:
    """Return few of the rows that have something to imitate, evenly spaced, and their share of these."""
    counts = imitated_by_row(batch)
    rows = [row for row, count in enumerate(counts) if count] or [0]
    few = min(len(rows), -(-SAMPLED_POSITIONS * len(rows) // max(1, sum(counts))))
    return [rows[round(index * (len(rows) - 1) / max(1, few - 1))] for index in range(few)], few / len(rows)


@contextmanager
def _states_of(embedding: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the embedding's outputs while the block runs, one tensor [B, L, H] per pass."""
    states: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
        states.append(output if output.requires_grad else output.detach().requires_grad_())  # frozen embeddings
        return states[-1]

    hook = embedding.register_forward_hook(keep)
    try:
        yield states
    finally:
        hook.remove()


def _by_last(work: HeadWork, sampled: Tensor, terms: Sequence[int]) -> list[list[Tensor]]:
    """Return the undivided gradients of these terms by the final states of each pass, [C, H], at these positions."""
    parts_by_term: dict[int, list[list[Tensor]]] = {index: [] for index in terms}
    projection = work.projection
    with torch.no_grad(), torch.autocast(sampled.device.type, enabled=False):
        for rows in torch.split(sampled, work.loss_chunk_size):
            chunk = work.chunk(rows)
            for index, parts in parts_by_term.items():
                gradients = work.loss.of_term(index, chunk)[0]
                by_head = [projection.before_cap(g, z) for g, z in zip(gradients, chunk.logits, strict=False)]
                parts.append([product(of_pass.to(projection.dtype), projection.weight) for of_pass in by_head])
    return [[torch.cat(parts) for parts in zip(*of_term, strict=True)] for of_term in parts_by_term.values()]


def _squared_norm(value: Tensor, states: Sequence[Tensor]) -> Tensor:
    """Return the squared norm of a number's gradient by all `states` together."""
    if not value.requires_grad:
        return torch.zeros((), device=value.device)
    return _sum_of_squares(torch.autograd.grad(value, states, allow_unused=True), value.device)


def _sum_of_squares(gradients: Iterable[Tensor | None], device: torch.device) -> Tensor:
    squares = [gradient.float().square().sum() for gradient in gradients if gradient is not None]
    return torch.stack(squares).sum() if squares else torch.zeros((), device=device)
