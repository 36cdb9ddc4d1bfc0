"""Heads: final states to logits that never exist all at once, and back, for token and sequence losses.

logits = soft_cap(scale · (h · weightᵀ + bias)), by the rows of the true vocabulary.

Token losses: for C rows at a time, project final states to logits, hand r rows at a time to the losses, replace those
logits by their gradient g, and add g · W to the gradient by the states and gᵀ · h to that by the weight; if a loss asks
for two passes of the student, for each of them. Backward only multiplies by the incoming gradient. One autograd
function does it, so that DDP, FSDP and gradient scaling see an ordinary head. It is independent of losses and
schedules.

Sequence losses ask for logits of one chunk of positions after the other. With a plain `kdtool.Head` autocast would cast
the whole weight for each, and autograd would add up gradients [V, H] of all chunks in the dtype of products.
`SequenceHead` casts its weight once a micro-batch, and so the gradient by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import kdtool
import torch
from torch import Tensor

from kdtool_torch.numerics import logits_product, product_in_float32, returns_float32, scale_and_cap
from kdtool_torch.terms import BoundTerm, Chunk, ChunkLoss, TeacherRows, joined_samples

SUMMED_ROWS = 8192
"""Rows of a gradient by the head's weight that are computed at once where they cannot be added in place."""


class Projection:
    """A head in the dtype of its operands, for chunks of final states.

    The cast of the weight is made once here, not once a chunk.
    """

    def __init__(self, head: kdtool.Head, dtype: torch.dtype | None = None) -> None:
        dtype = dtype or head.weight.dtype
        self.head = head
        self.dtype = dtype
        self.weight = head.weight.detach()[: head.vocabulary].to(dtype)  # [V, H]
        self.logits_dtype = torch.float32 if returns_float32(self.weight.device, dtype) else dtype
        # [V]; added to logits in their own dtype
        self.bias = None if head.bias is None else head.bias.detach()[: head.vocabulary].to(self.logits_dtype)

    @property
    def vocabulary(self) -> int:
        """The true vocabulary V."""
        return self.weight.shape[0]

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Return logits [C, V] of final states [C, H], without gradient; written to `out` [>= C, V] if given.

        They are of `logits_dtype`: losses get unrounded logits where the device returns them.
        """
        target = None if out is None else out[: hidden.shape[0]]
        z = logits_product(hidden.detach().to(self.dtype), self.weight.t(), target)
        if self.bias is not None:
            z += self.bias
        if self.head.scale != 1.0:
            z *= self.head.scale
        if self.head.soft_cap is not None:
            z.div_(self.head.soft_cap).tanh_().mul_(self.head.soft_cap)
        return z

    def before_cap(self, gradient: Tensor, logits: Tensor) -> Tensor:
        """Carry dL/d(logits) [C, V] back through soft cap and scale: the gradient of h · weightᵀ + bias."""
        if self.head.soft_cap is not None:
            gradient = gradient * (1 - (logits / self.head.soft_cap) ** 2)
        return gradient if self.head.scale == 1.0 else gradient * self.head.scale


def product(a: Tensor, b: Tensor) -> Tensor:
    """Return a · b to be added to float32. CUDA gives the sums unrounded; elsewhere those of bfloat16 come rounded.

    Sums over rows, which nothing has divided yet, may be more than float16 holds.
    """
    if returns_float32(a.device, a.dtype):
        return product_in_float32(a, b)
    return torch.mm(a.float(), b.float()) if a.dtype == torch.float16 else torch.mm(a, b)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """Add a · b to `total` [V, H], float32 or wider, in place, without a temporary of its size."""
    if a.dtype == total.dtype:
        total.addmm_(a, b)
        return
    for start in range(0, len(total), SUMMED_ROWS):
        rows = slice(start, start + SUMMED_ROWS)
        total[rows] += product(a[rows], b)


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
    given_logits: Mapping[str, Tensor] = field(default_factory=dict)
    """Of teachers whose logits [N, V] exist, in place of signals."""

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
        logits = {name: given[rows] for name, given in self.given_logits.items()}
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


def head_loss(work: HeadWork, divisor: Tensor) -> Tensor:
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


class _Operand:
    """A head's weight in the dtype of products, cast at its first use, and the sum of the chunks' gradients by it."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        self.weight, self.dtype = weight, dtype
        self._cast: Tensor | None = None
        self.total: Tensor | None = None

    @property
    def tensor(self) -> Tensor:
        """The cast weight [V_padded, H], through which gradients flow if the weight requires them."""
        learns = self.weight.requires_grad and torch.is_grad_enabled()
        if self._cast is None or (learns and not self._cast.requires_grad):
            self._cast = _Cast.apply(self.weight, self.dtype, self)  # type: ignore[no-untyped-call]
        return self._cast

    def add_gradient(self, by_logits: Tensor, hidden: Tensor, vocabulary: int) -> None:
        """Add a chunk's share: `by_logits` [C, V] and `hidden` [C, H], both in the dtype of products."""
        if self.total is None:
            wide = torch.promote_types(self.dtype, torch.float32)
            self.total = torch.zeros_like(self.weight, dtype=wide)
        add_product(self.total[:vocabulary], by_logits.t(), hidden)


@dataclass(frozen=True, eq=False)
class SequenceHead(kdtool.Head):
    """A head for one micro-batch. All its copies, such as those of shorter vocabularies, share one cast weight."""

    operand: _Operand | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Return logits [N, V] of final states [N, H], with gradient; in float32 if the device returns that."""
        if self.operand is None or self.operand.weight is not self.weight:  # a loss replaced it
            return super().logits(hidden)
        logits: Tensor = _Logits.apply(hidden, self.operand.tensor, self.vocabulary, self.operand)  # type: ignore[no-untyped-call]
        if self.bias is not None:
            logits = logits + self.bias[: self.vocabulary].to(logits.dtype)
        return scale_and_cap(self, logits)

    def frozen(self) -> SequenceHead:
        """Return the head without gradient for weight and bias."""
        weight, bias = self.weight.detach(), None if self.bias is None else self.bias.detach()
        operand = self.operand and _Operand(weight, self.operand.dtype)
        return replace(self, weight=weight, bias=bias, operand=operand)


def sequence_head(head: kdtool.Head, dtype: torch.dtype | None = None) -> SequenceHead:
    """Return a head for one micro-batch with products in `dtype`; None: in its weight's."""
    operand = _Operand(head.weight, dtype or head.weight.dtype)
    return SequenceHead(head.weight, head.vocabulary, head.bias, head.scale, head.soft_cap, operand)


class _Cast(torch.autograd.Function):
    """The cast of the weight. Its backward runs after that of all logits, and returns the sum of their gradients."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, dtype: torch.dtype, operand: _Operand) -> Tensor:
        ctx.operand, ctx.dtype = operand, weight.dtype
        return weight.to(dtype)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> tuple[Tensor | None, None, None]:
        total, ctx.operand.total = ctx.operand.total, None
        return None if total is None else total.to(ctx.dtype), None, None


class _Logits(torch.autograd.Function):
    """h · weightᵀ. The gradient by the weight goes into the operand's sum, not through autograd."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, vocabulary: int, operand: _Operand) -> Tensor:
        ctx.save_for_backward(hidden, weight)
        ctx.vocabulary, ctx.operand = vocabulary, operand
        with torch.autocast(hidden.device.type, enabled=False):
            return logits_product(hidden.to(weight.dtype), weight[:vocabulary].t())

    @staticmethod
    def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, None, None, None]:
        hidden, weight = ctx.saved_tensors
        incoming, by_hidden = incoming.to(weight.dtype), None
        if ctx.needs_input_grad[1]:
            ctx.operand.add_gradient(incoming, hidden.to(weight.dtype), ctx.vocabulary)
        if ctx.needs_input_grad[0]:
            by_hidden = product(incoming, weight[: ctx.vocabulary]).to(hidden.dtype)
        return by_hidden, None, None, None
