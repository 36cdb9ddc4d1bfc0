"""The function called on each chunk of logits: every loss of the phase, weighed, and the gradients by the logits.

Called by the chunked head some thirty times per step; built once per phase. Eager, each loss returns its analytic gradient,
or PyTorch differentiates it. Compiled, losses and gradient become one kernel; results agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Any

import kdtool
import torch
import torch.nn.functional as F
from torch import Tensor

from kdtool_trainer_standard._mixture import mixed_logits
from kdtool_trainer_standard._terms import BoundTerm

__all__ = ["Chunk", "ChunkLoss", "Logits", "TeacherRows"]

Logits = tuple[Tensor, ...]
"""The student's logits of a chunk, [C, V] for each pass: one, or two if a loss asks for them."""

TeacherRows = tuple[Tensor, ...]
"""One term's teachers in a chunk: () for none, logits of each, (ids, weights) of all together, or chosen (ids, logs)."""

_numbers = count()


@dataclass(frozen=True, eq=False)
class Chunk:
    """Inputs of a phase's losses at C positions; `teachers` has one entry per term.

    Without logits and teachers, it describes all positions of a micro-batch: logits exist only chunk by chunk.
    """

    labels: Tensor
    positions: Tensor
    columns: dict[str, Tensor]
    factors: Tensor
    """[terms] float32: weight · scale · balance of each term."""
    progress: Tensor
    step: Tensor
    teachers: tuple[TeacherRows, ...] = ()
    logits: Logits = ()

    def select(self, rows: slice | Tensor, teachers: tuple[TeacherRows, ...], logits: Logits) -> Chunk:
        """Return these positions with their teachers' tokens or logits, and the student's logits."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        labels, positions = self.labels[rows], self.positions[rows]
        return replace(self, labels=labels, positions=positions, columns=columns, teachers=teachers, logits=logits)


class ChunkLoss:
    """All token losses of a phase as one function of logits: gradients of their shapes, each term's totals over the rows."""

    def __init__(self, terms: Sequence[BoundTerm], weightings: Sequence[Callable[[kdtool.TokenChunk], Tensor]]) -> None:
        self.terms = tuple(terms)
        self.forward_passes = max((bound.term.forward_passes for bound in self.terms), default=1)
        self._weightings = tuple(weightings)
        self._compiled: Callable[..., Any] | None = None

    def __call__(self, chunk: Chunk) -> tuple[Logits, Tensor]:
        """Return the weighed sum's gradients by the logits, in their dtype or float32, and the terms' totals [2, terms].

        The totals are each term's sum of values, and its sum of token weights: 0 if no tokens are weighed.
        """
        if self._compiled is not None:
            gradients, (_, totals) = self._compiled(*_flat(chunk))
            return gradients, totals
        weights, gradients, sums = self._token_weights(chunk), dict[int, Tensor](), list[Tensor]()
        for index in range(len(self.terms)):
            term_gradients, values = self._of_term(index, chunk, weights)
            sums.append(values.sum())
            for number, gradient in enumerate(term_gradients):
                gradients[number] = gradients[number] + gradient if number in gradients else gradient
        return tuple(gradients.values()), torch.stack([torch.stack(sums), self._weight_sums(chunk, weights)])

    def weight_sums(self, chunk: Chunk) -> Tensor:
        """Return each term's sum of token weights, [terms]."""
        return self._weight_sums(chunk, self._token_weights(chunk))

    def of_term(self, index: int, chunk: Chunk) -> tuple[Logits, Tensor]:
        """Return one term's weighed gradients by the logits that it sees and its values [C], token weights included."""
        return self._of_term(index, chunk, self._token_weights(chunk))

    def nothing_to_compile(self, chunk: Chunk) -> bool:
        """Return whether PyTorch would only run analytic gradients on such a chunk, without weighing tokens."""
        return not self._weightings and all(
            self._analytic_gradient(index, chunk) is not None for index in range(len(self.terms))
        )

    def compile(self) -> None:
        """Compile losses and gradient together; errors come at the first call."""
        differentiated = torch.func.grad_and_value(self._objective_of_flat, has_aux=True)

        def reorder(logits: Logits, *flat: Any) -> tuple[Logits, tuple[Tensor, Tensor]]:
            gradients, (objective, totals) = differentiated(logits, *flat)
            return gradients, (objective, totals)

        # PyTorch keeps compiled variants, and their limit, by a function's code, name and line for the whole process:
        # phases trained earlier must not count.
        reorder.__code__ = reorder.__code__.replace(co_name=f"{reorder.__name__}_{next(_numbers)}")
        # With a fixed number of rows, each last chunk of a step would be compiled again.
        self._compiled = torch.compile(reorder, dynamic=True, fullgraph=True)

    def eager(self) -> None:
        """Switch back to uncompiled losses."""
        self._compiled = None

    @property
    def is_compiled(self) -> bool:
        """True if the losses run compiled."""
        return self._compiled is not None

    def _objective_of_flat(self, logits: Logits, *flat: Any) -> tuple[Tensor, Tensor]:
        chunk = Chunk(*(*flat, logits))
        weights = self._token_weights(chunk)
        values = [self._values(index, chunk, weights).sum() for index in range(len(self.terms))]
        sums = torch.stack(values)
        return (sums * chunk.factors).sum(), torch.stack([sums, self._weight_sums(chunk, weights)])

    def _of_term(self, index: int, chunk: Chunk, weights: Tensor | None) -> tuple[Logits, Tensor]:
        factor, analytic = chunk.factors[index], self._analytic_gradient(index, chunk)
        if analytic is not None:
            values, gradient = analytic
            gradient.mul_(factor if weights is None else (factor * weights)[:, None])
            unseen = chunk.logits[0].shape[-1] - gradient.shape[-1]
            gradient = F.pad(gradient, (0, unseen)) if unseen else gradient
            return (gradient,), values if weights is None else values * weights
        with torch.enable_grad():
            leaves = _leaves(chunk.logits[: self.terms[index].term.forward_passes])
            values = self._values(index, replace(chunk, logits=leaves), weights)
            gradients = torch.autograd.grad(values.sum() * factor, leaves)
        return gradients, values.detach()

    def _analytic_gradient(self, index: int, chunk: Chunk) -> tuple[Tensor, Tensor] | None:
        gradient = self.terms[index].gradient
        if gradient is None:
            return None
        with torch.no_grad():
            return gradient(self.seen_by(index, chunk))

    def _values(self, index: int, chunk: Chunk, weights: Tensor | None) -> Tensor:
        values: Tensor = self.terms[index].call(self.seen_by(index, chunk))
        return values if weights is None else values * weights

    def _weight_sums(self, chunk: Chunk, weights: Tensor | None) -> Tensor:
        return torch.zeros_like(chunk.factors) if weights is None else weights.sum().expand_as(chunk.factors)

    def _token_weights(self, chunk: Chunk) -> Tensor | None:
        if not self._weightings:
            return None
        seen = self.seen_by_weightings(chunk)
        weights = self._weightings[0](seen).detach()
        for weighting in self._weightings[1:]:
            weights = weights * weighting(seen).detach()
        return weights

    def seen_by_weightings(self, chunk: Chunk) -> kdtool.TokenChunk:
        """Return what weightings of tokens see: the chunk of the first term that has a teacher, without gradient.

        At temperature 1, regardless of the term's, a mixture of teachers is like one model: a weighting can soften it like
        one teacher's logits.
        """
        index = next((i for i, teacher in enumerate(chunk.teachers) if teacher), 0)
        detached = replace(chunk, logits=tuple(of_pass.detach() for of_pass in chunk.logits))
        return self._make_token_chunk(index, detached, 1.0)

    def seen_by(self, index: int, chunk: Chunk) -> kdtool.TokenChunk:
        """Return what the term of that index sees."""
        return self._make_token_chunk(index, chunk, self.terms[index].term.temperature)

    def _make_token_chunk(self, index: int, chunk: Chunk, temperature: float) -> kdtool.TokenChunk:
        bound, teacher = self.terms[index], chunk.teachers[index]
        tokens: kdtool.DenseTokens | kdtool.SparseTokens | kdtool.ChosenTokens | None = None
        if bound.form == "dense":
            tokens = kdtool.DenseTokens(mixed_logits(teacher, bound.shares, temperature))
        elif bound.form == "chosen":
            tokens = kdtool.ChosenTokens(teacher[0], teacher[1], bound.captured_temperature)
        elif bound.form in ("sampled", "top-k"):
            tokens = kdtool.SparseTokens(teacher[0], teacher[1], bound.form, bound.captured_temperature)
        logits = chunk.logits[: bound.term.forward_passes]
        if bound.term.shared is not None:
            logits = tuple(of_pass[:, : bound.term.shared] for of_pass in logits)
        return kdtool.TokenChunk(
            student_logits=logits[0],
            labels=chunk.labels,
            teacher=tokens,
            positions=chunk.positions,
            temperature=temperature,
            progress=chunk.progress,
            step=chunk.step,
            columns=chunk.columns,
            second_logits=logits[1] if len(logits) > 1 else None,
        )


def _leaves(logits: Logits) -> Logits:
    return tuple(of_pass.detach().requires_grad_() for of_pass in logits)


def _flat(chunk: Chunk) -> tuple[Any, ...]:
    """Return logits, and then the other fields in their order, for a compiled function."""
    return (
        chunk.logits, chunk.labels, chunk.positions, chunk.columns, chunk.factors, chunk.progress, chunk.step,
        chunk.teachers,
    )  # fmt: skip
