"""The chunked head: losses on logits that never exist all at once, with their gradient taken on the way forward.

For C rows at a time: project final states to logits, hand r rows at a time to the losses, replace those logits by their
gradient g, and add g · W to the gradient by the states and gᵀ · h to that by the weight; if a loss asks for two
passes of the student, for each of them. Backward only multiplies by the incoming gradient. One autograd function does it,
so that DDP, FSDP and gradient scaling see an ordinary head.

Called by the distillation module. It is independent of losses and schedules.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import kdtool
import torch
from torch import Tensor

from kdtool_trainer_standard._chunk import Chunk, ChunkLoss, TeacherRows
from kdtool_trainer_standard._mixture import joined_samples
from kdtool_trainer_standard._projection import Projection, add_product, product
from kdtool_trainer_standard._terms import BoundTerm

__all__ = ["HeadWork", "chunked_loss", "weight_sums"]


@dataclass(eq=False)
class HeadWork:
    """One micro-batch's N positions for the head, and its results: `totals` [2, terms], as of `ChunkLoss`, of all."""

    loss: ChunkLoss
    rows: Chunk
    """All N positions, without logits and teachers."""
    signals: Mapping[str, kdtool.Signal]
    """Of each teacher, at these positions."""
    hidden: Sequence[Tensor]
    """The student's final states [N, H] of each pass. N may be 0."""
    head: kdtool.Head
    dtype: torch.dtype
    head_chunk_size: int
    """C: positions projected at once."""
    loss_chunk_size: int
    """r: positions of one call of the losses."""
    buffers: dict[Any, Tensor] = field(default_factory=dict)
    """Kept between steps: logits are written into the same memory."""
    totals: Tensor = field(default_factory=lambda: torch.zeros(2, 0))
    finite: Tensor = field(default_factory=lambda: torch.ones((), dtype=torch.bool))

    @cached_property
    def projection(self) -> Projection:
        """The student's head."""
        return Projection(self.head, self.dtype)

    @cached_property
    def teacher_projections(self) -> dict[str, Projection]:
        """Heads of the teachers whose logits the losses see."""
        dense = {name for bound in self.loss.terms if bound.form == "dense" for name in bound.term.teachers}
        return {
            name: Projection(signal.lazy.head) for name, signal in self.signals.items() if name in dense and signal.lazy
        }

    def chunk(self, rows: slice | Tensor) -> Chunk:
        """Return the inputs of the losses at some positions, with logits in new memory."""
        logits = tuple(self.projection.logits(states[rows]) for states in self.hidden)
        return self.rows.select(rows, self.teacher_rows(self.project_teachers(rows), rows), logits)

    def project_teachers(self, rows: slice | Tensor, buffers: dict[Any, Tensor] | None = None) -> dict[str, Tensor]:
        """Return each teacher's logits of these positions; written into `buffers` if given."""
        logits = {}
        for name, head in self.teacher_projections.items():
            lazy = self.signals[name].lazy
            assert lazy is not None  # noqa: S101 - or it would have no projection
            states = lazy.hidden[rows]
            out = None if buffers is None else _buffer(buffers, name, states.shape[0], head, head.logits_dtype)
            logits[name] = head.logits(states, out)
        return logits

    def teacher_rows(
        self, logits: Mapping[str, Tensor], rows: slice | Tensor, within: slice = slice(None)
    ) -> tuple[TeacherRows, ...]:
        """Return each term's teachers at some of the N positions, which are those `within` the projected logits."""
        return tuple(self._teachers_of(bound, logits, rows, within) for bound in self.loss.terms)

    def _teachers_of(
        self, bound: BoundTerm, logits: Mapping[str, Tensor], rows: slice | Tensor, within: slice
    ) -> TeacherRows:
        if bound.form == "none":
            return ()
        if bound.form == "dense":
            return tuple(logits[name][within] for name in bound.term.teachers)
        if bound.form == "chosen":
            chosen = self.signals[bound.term.teacher or ""].chosen
            assert chosen is not None  # noqa: S101 - or the term would not be of this form
            return chosen.ids[rows], chosen.log_probabilities[rows]
        tokens = [sparse for name in bound.term.teachers if (sparse := self.signals[name].sparse)]
        return joined_samples(
            [each.ids[rows] for each in tokens], [each.weights[rows] for each in tokens], bound.shares
        )


def chunked_loss(work: HeadWork, divisor: Tensor) -> Tensor:
    """Return Σ factor · Σ loss / divisor over all terms and positions, float32, with gradient for states and head.

    Without positions all gradients exist and are zero.

    Args:
        work: receives the terms' totals.
        divisor: 0-d tensor, the number of positions in the loss mask over all ranks and micro-batches of the step.
    """
    head = work.head
    loss: Tensor = _ChunkedHead.apply(head.weight, head.bias, divisor, work, *work.hidden)  # type: ignore[no-untyped-call]
    return loss


def weight_sums(work: HeadWork) -> Tensor:
    """Return each term's sum of token weights over the N positions, [terms], without gradient."""
    sums = torch.zeros_like(work.rows.factors)
    with torch.no_grad(), torch.autocast(sums.device.type, enabled=False):
        for rows in _evenly(0, work.hidden[0].shape[0], work.loss_chunk_size):
            sums += work.loss.weight_sums(work.chunk(rows))
    return sums


class _ChunkedHead(torch.autograd.Function):
    """See the module. Gradients stay in float32, undivided and unscaled, until backward: nothing underflows in float16."""

    @staticmethod
    def forward(
        ctx: Any, weight: Tensor, bias: Tensor | None, divisor: Tensor, work: HeadWork, *hidden: Tensor
    ) -> Tensor:
        wanted = ctx.needs_input_grad
        with torch.autocast(weight.device.type, enabled=False):
            gradients = _Gradients(weight, bias, hidden, wanted)
            _run(hidden, work, gradients)
        ctx.gradients, ctx.divisor, ctx.dtypes = gradients, divisor, (weight.dtype, [states.dtype for states in hidden])
        return (work.totals[0] * work.rows.factors).sum() / divisor

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
        gradients: _Gradients | None = ctx.gradients
        if gradients is None:
            raise RuntimeError("the chunked head keeps its gradients for one backward pass only; run forward again")
        ctx.gradients = None
        scale = incoming.float() / ctx.divisor
        weight_dtype, hidden_dtypes = ctx.dtypes
        return (
            _scale(gradients.weight, scale, weight_dtype),
            _scale(gradients.bias, scale, weight_dtype),
            None,
            None,
            *(_scale(gradient, scale, dtype) for gradient, dtype in zip(gradients.hidden, hidden_dtypes, strict=True)),
        )


class _Gradients:
    """Sums over chunks, in float32; None for what needs no gradient (a frozen head has no buffer at all)."""

    def __init__(
        self, weight: Tensor, bias: Tensor | None, hidden: tuple[Tensor, ...], wanted: tuple[bool, ...]
    ) -> None:
        self.weight = _zeros(weight) if wanted[0] else None
        self.bias = _zeros(bias) if bias is not None and wanted[1] else None
        self.hidden = [_zeros(states) if asked else None for states, asked in zip(hidden, wanted[4:], strict=True)]

    def add(self, number: int, rows: slice, gradient: Tensor, hidden: Tensor, projection: Projection) -> None:
        """Add a chunk's share in pass `number`: `gradient` [C, V] by the logits before scale and cap, `hidden` [C, H]."""
        by_states = self.hidden[number]
        if by_states is not None:
            by_states[rows] = product(gradient, projection.weight)
        if self.weight is not None:
            add_product(self.weight[: projection.vocabulary], gradient.t(), hidden)
        if self.bias is not None:
            self.bias[: projection.vocabulary] += gradient.float().sum(0)


def _run(hidden: tuple[Tensor, ...], work: HeadWork, gradients: _Gradients) -> None:
    projection = work.projection
    states = [of_pass.detach().to(work.dtype) for of_pass in hidden]
    totals = torch.zeros(2, len(work.loss.terms), device=projection.weight.device)
    for rows in _evenly(0, states[0].shape[0], work.head_chunk_size):
        count = rows.stop - rows.start
        z = [_buffer(work.buffers, ("student", number), count, projection, work.dtype) for number in range(len(states))]
        for part, chunk in _projected_parts(rows, states, z, work):
            chunk_gradients, chunk_totals = work.loss(chunk)
            within = slice(part.start - rows.start, part.stop - rows.start)
            for of_pass, of_part, gradient in zip(z, chunk.logits, chunk_gradients, strict=True):
                of_pass[within].copy_(projection.before_cap(gradient, of_part))
            totals += chunk_totals
        for number, of_pass in enumerate(states):
            gradients.add(number, rows, z[number], of_pass[rows], projection)
    work.totals = totals
    checked = [totals[0].sum(), *(of_pass.sum() for of_pass in gradients.hidden if of_pass is not None)]
    work.finite = torch.stack(checked).isfinite().all()


def _projected_parts(
    rows: slice, states: Sequence[Tensor], z: Sequence[Tensor], work: HeadWork
) -> Iterator[tuple[slice, Chunk]]:
    """Yield each part of `rows` that the losses see at once, with their inputs.

    Logits in the dtype of products are projected into `z`, for all rows at once. Wider ones, which would take twice the
    memory there, are projected part by part.
    """
    projection = work.projection
    wider = projection.logits_dtype != projection.dtype
    teachers: dict[str, Tensor] = {}
    if not wider:
        for of_pass, out in zip(states, z, strict=True):
            projection.logits(of_pass[rows], out)
        teachers = work.project_teachers(rows, work.buffers)
    for part in _evenly(rows.start, rows.stop, work.loss_chunk_size):
        within = slice(part.start - rows.start, part.stop - rows.start)
        logits = tuple(of_pass[within] for of_pass in z)
        if wider:
            within = slice(0, part.stop - part.start)
            buffers = (
                _buffer(work.buffers, ("wider", number), within.stop, projection, projection.logits_dtype)
                for number in range(len(z))
            )
            logits = tuple(projection.logits(each[part], out) for each, out in zip(states, buffers, strict=True))
            teachers = work.project_teachers(part, work.buffers)
        yield part, work.rows.select(part, work.teacher_rows(teachers, part, within), logits)


def _evenly(start: int, stop: int, most: int) -> Iterator[slice]:
    """Cut a range into the fewest slices of at most `most`, of about equal length: short ones cost as much as long ones."""
    count = -(-(stop - start) // most)
    size = -(-(stop - start) // count) if count else 1
    yield from (slice(first, min(first + size, stop)) for first in range(start, stop, size))


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros_like(like, dtype=torch.float32)


def _scale(gradient: Tensor | None, scale: Tensor, dtype: torch.dtype) -> Tensor | None:
    return None if gradient is None else gradient.mul_(scale).to(dtype)


def _buffer(buffers: dict[Any, Tensor], name: Any, rows: int, projection: Projection, dtype: torch.dtype) -> Tensor:
    """Return memory for logits [rows, V]: the same for each chunk and step."""
    buffer = buffers.get(name)
    if buffer is None or buffer.shape[0] < rows or buffer.shape[1] != projection.vocabulary or buffer.dtype != dtype:
        weight = projection.weight
        buffer = torch.empty(rows, projection.vocabulary, dtype=dtype, device=weight.device)
        buffers[name] = buffer
    return buffer[:rows]
