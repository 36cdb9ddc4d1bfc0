"""A token loss and the student's head as one plain function, for any training loop.

The gradient is taken chunk by chunk on the way forward, as in the trainer `standard`: logits of a whole batch never
exist, and backward only multiplies by the incoming gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch.batch import NO_LABEL
from kdtool_torch.numerics import elements_at_once, logits_product, scale_and_cap, unrounded_logits

if TYPE_CHECKING:
    from torch import Tensor


def chunked_loss(
    loss: kdtool.TokenLoss,
    hidden: Tensor,
    head: Tensor | kdtool.Head,
    labels: Tensor,
    teacher: Tensor | kdtool.LazyLogits | kdtool.SparseTokens | None = None,
    *,
    columns: Mapping[str, Tensor] | None = None,
    num_items_in_batch: Tensor | int | None = None,
    chunk_size: int | None = None,
) -> Tensor:
    """Return the mean of a token loss over the labelled positions, float32, with gradient for states and head.

    The loss is scaled by its temperature to the power `temperature_power`, as in a recipe. Under autocast, logits are
    computed in autocast's dtype.

    Args:
        loss: any that needs one pass of the student, such as `ForwardKL(ForwardKL.Config(temperature=2.0))`.
        hidden: the student's final states [..., H], after the last norm.
        head: the weight [V, H] of its head, or a `kdtool.Head` with padding, bias, scale or soft cap.
        labels: [...] int64, the token that follows each position, or -100 where nothing is learned.
        teacher: its logits [..., V], or its final states with its head, or tokens [..., K]; None if the loss needs none.
            Columns above the head's vocabulary are padding.
        columns: integers [...] by name, for losses that ask for them, such as `student_generated` of `Contrastive`.
        num_items_in_batch: divisor, for a step of several micro-batches or processes; by default the labels here.
        chunk_size: positions whose logits exist at once; by default as many as suit the device.

    Raises:
        kdtool.UsageError: the loss needs two passes of the student, shapes do not match, or the teacher has fewer tokens.
    """
    import torch

    head = head if isinstance(head, kdtool.Head) else kdtool.Head(head, head.shape[0])
    _check(loss, hidden, head, labels, teacher)
    labelled = (labels != NO_LABEL).flatten().nonzero().flatten()  # the only read that a GPU waits for
    positions = torch.arange(labels.shape[-1], device=labels.device).expand(labels.shape)

    def select(values: Tensor, kept: int = 0) -> Tensor:
        return values.reshape(-1, *values.shape[values.ndim - kept :]).index_select(0, labelled)

    work = _Work(
        loss, select(labels), select(positions), {name: select(column) for name, column in (columns or {}).items()},
        _map(teacher, lambda values: select(values, 1)), head, _compute_dtype(head.weight),
        chunk_size or max(1, elements_at_once(hidden.device) // head.vocabulary),
    )  # fmt: skip
    total: Tensor = _function().apply(select(hidden, 1), head.weight, head.bias, work)
    count = len(work.labels) if num_items_in_batch is None else num_items_in_batch
    divisor = count.to(total.device).clamp(min=1) if isinstance(count, torch.Tensor) else max(1, count)
    return total * loss.temperature**loss.temperature_power / divisor


@dataclass(frozen=True, eq=False)
class _Work:
    """Constants of one call, at the N labelled positions."""

    loss: kdtool.TokenLoss
    labels: Tensor
    positions: Tensor
    columns: dict[str, Tensor]
    teacher: Tensor | kdtool.LazyLogits | kdtool.SparseTokens | None
    head: kdtool.Head
    dtype: Any
    size: int

    def chunk(self, part: slice, logits: Tensor) -> kdtool.TokenChunk:
        """Return the loss's input for some positions."""
        start, columns = logits.new_zeros(()), {name: column[part] for name, column in self.columns.items()}
        tokens = _tokens(_map(self.teacher, lambda values: values[part]), self.head.vocabulary)
        return kdtool.TokenChunk(
            logits, self.labels[part], tokens, self.positions[part], self.loss.temperature, start, start.long(), columns
        )

    def differentiate(self, part: slice, products: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the loss over a chunk and its gradient by h · weightᵀ + bias, [C, V]."""
        import torch

        if self.head.scale == 1.0 and self.head.soft_cap is None:
            analytic = self.loss.kdtool_token_gradient(self.chunk(part, products))
            if analytic is not None:
                return analytic[0].sum(), analytic[1]
        with torch.enable_grad():
            products = products.requires_grad_()
            values = self.loss.kdtool_token_loss(self.chunk(part, scale_and_cap(self.head, products))).sum()
            (gradient,) = torch.autograd.grad(values, products)
        return values.detach(), gradient


@cache
def _function() -> Any:
    """Return the autograd function, made once torch is imported."""
    import torch

    class ChunkedLoss(torch.autograd.Function):
        """Sums of gradients stay in float32, unscaled, until backward."""

        @staticmethod
        def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work) -> Tensor:
            ctx.dtypes = [tensor if tensor is None else tensor.dtype for tensor in (hidden, weight, bias)]
            with torch.autocast(hidden.device.type, enabled=False):
                total, *gradients = _run(hidden, weight, bias, work, ctx.needs_input_grad)
            ctx.save_for_backward(*gradients)
            return total

        @staticmethod
        def backward(ctx: Any, incoming: Tensor) -> tuple[Tensor | None, ...]:
            gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)
            return *(None if each is None else (each * incoming).to(dtype) for each, dtype in gradients), None

    return ChunkedLoss


def _run(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, work: _Work, wanted: tuple[bool, ...]
) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
    """Return the sum of the loss over all positions, and its gradients by states, weight and bias as far as wanted."""
    import torch

    vocabulary = work.head.vocabulary
    states, matrix = hidden.to(work.dtype), weight[:vocabulary].to(work.dtype)
    by_hidden, by_weight, by_bias = (
        torch.zeros_like(tensor, dtype=torch.float32) if tensor is not None and needed else None
        for tensor, needed in zip((hidden, weight, bias), wanted, strict=False)
    )
    total = torch.zeros((), device=hidden.device)
    for start in range(0, len(states), work.size):
        part = slice(start, start + work.size)
        products = logits_product(states[part], matrix.T)
        if bias is not None:
            products += bias[:vocabulary]
        if not any(wanted):
            total += work.loss.kdtool_token_loss(work.chunk(part, scale_and_cap(work.head, products))).sum()
            continue
        value, gradient = work.differentiate(part, products)
        total += value
        if by_bias is not None:
            by_bias[:vocabulary] += gradient.sum(0)
        gradient = gradient.to(work.dtype)
        if by_hidden is not None:
            by_hidden[part] = gradient @ matrix
        if by_weight is not None:
            by_weight[:vocabulary] += gradient.T @ states[part]
    return total, by_hidden, by_weight, by_bias


def _compute_dtype(weight: Tensor) -> Any:
    import torch

    kind = weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else weight.dtype


def _map(teacher: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """Return the teacher with a function of its tensors over positions."""
    if isinstance(teacher, kdtool.LazyLogits):
        return replace(teacher, hidden=function(teacher.hidden.detach()))
    if isinstance(teacher, kdtool.SparseTokens):
        return replace(teacher, ids=function(teacher.ids), weights=function(teacher.weights))
    return None if teacher is None else function(teacher.detach())


def _tokens(teacher: Any, vocabulary: int) -> kdtool.DenseTokens | kdtool.SparseTokens | None:
    """Return a chunk's teacher as losses see it."""
    if teacher is None or isinstance(teacher, kdtool.SparseTokens):
        return teacher
    logits = unrounded_logits(teacher.head, teacher.hidden) if isinstance(teacher, kdtool.LazyLogits) else teacher
    return kdtool.DenseTokens(logits.detach()[:, :vocabulary])


def _check(
    loss: kdtool.TokenLoss,
    hidden: Tensor,
    head: kdtool.Head,
    labels: Tensor,
    teacher: Tensor | kdtool.LazyLogits | kdtool.SparseTokens | None,
) -> None:
    """Refuse what cannot be computed."""
    name = type(loss).__name__
    if loss.forward_passes > 1:
        raise kdtool.UsageError(f"{name} compares two passes of the student, expected one; use `kdtool run` for it")
    if teacher is None and loss.needs:
        raise kdtool.UsageError(
            f"{name} learns from a teacher, but `teacher` is None; pass its logits, states or tokens"
        )
    rows = {"hidden": hidden.shape[:-1]}
    if isinstance(teacher, kdtool.LazyLogits):
        rows["teacher"], width = teacher.hidden.shape[:-1], teacher.head.vocabulary
    elif isinstance(teacher, kdtool.SparseTokens):
        rows["teacher"], width = teacher.ids.shape[:-1], head.vocabulary
    elif teacher is not None:
        rows["teacher"], width = teacher.shape[:-1], teacher.shape[-1]
    else:
        width = head.vocabulary
    for argument, shape in rows.items():
        if shape != labels.shape:
            raise kdtool.UsageError(
                f"`{argument}` has positions {tuple(shape)}, expected those of `labels`, {tuple(labels.shape)}; shift "
                "labels and leave states as they are"
            )
    if width < head.vocabulary:
        raise kdtool.UsageError(
            f"the teacher has {width} tokens, expected at least the student's {head.vocabulary}; pass "
            f"`kdtool.Head(weight, {width})` if both begin with the same tokens"
        )
