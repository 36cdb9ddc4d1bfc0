"""A token loss and the student's head as one plain function, for any training loop: that of the trainer `standard`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import kdtool

from kdtool_torch.batch import NO_LABEL
from kdtool_torch.numerics import elements_at_once, product_dtype

if TYPE_CHECKING:
    from torch import Tensor

    from kdtool_torch.terms import BoundTerm

_TEACHER = "teacher"


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
    computed in autocast's dtype. The gradient is computed at once, for a single backward pass.

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
        kdtool.UsageError: the loss needs two passes, shapes do not match, or the teacher has fewer tokens.
    """
    import torch

    from kdtool_torch.head import HeadWork, head_loss
    from kdtool_torch.terms import Chunk, ChunkLoss

    head = head if isinstance(head, kdtool.Head) else kdtool.Head(head, head.shape[0])
    _check(loss, hidden, head, labels, teacher)
    labelled = (labels != NO_LABEL).flatten().nonzero().flatten()  # the only read that a GPU waits for
    positions = torch.arange(labels.shape[-1], device=labels.device).expand(labels.shape)

    def select(values: Tensor, kept: int = 0) -> Tensor:
        return values.reshape(-1, *values.shape[values.ndim - kept :]).index_select(0, labelled)

    zero = torch.zeros((), device=hidden.device)
    size = chunk_size or max(1, elements_at_once(hidden.device) // head.vocabulary)
    rows = Chunk(
        labels=select(labels),
        positions=select(positions),
        columns={name: select(column) for name, column in (columns or {}).items()},
        factors=torch.full((1,), loss.temperature**loss.temperature_power, device=hidden.device),
        progress=zero,
        step=zero.long(),
    )
    signal, given = _at_positions(teacher, head.vocabulary, select)
    work = HeadWork(
        loss=ChunkLoss([_bind(loss, teacher)], ()),
        rows=rows,
        signals={_TEACHER: signal},
        hidden=[select(hidden, 1)],
        head=head,
        dtype=product_dtype(head.weight),
        head_chunk_size=size,
        loss_chunk_size=size,
        given_logits=given,
    )
    count = len(rows.labels) if num_items_in_batch is None else num_items_in_batch
    divisor = count.to(hidden.device) if isinstance(count, torch.Tensor) else torch.full_like(zero, count)
    divisor = divisor.clamp(min=1)
    return head_loss(work, divisor)


def _at_positions(
    teacher: Tensor | kdtool.LazyLogits | kdtool.SparseTokens | None,
    vocabulary: int,
    select: Callable[[Tensor, int], Tensor],
) -> tuple[kdtool.Signal, dict[str, Tensor]]:
    """Return what a teacher gives at the selected positions: its signal, and its logits if it gives these."""
    signal = kdtool.Signal("")
    if isinstance(teacher, kdtool.LazyLogits):
        head = replace(teacher.head, vocabulary=vocabulary)
        return replace(signal, lazy=kdtool.LazyLogits(select(teacher.hidden.detach(), 1), head)), {}
    if isinstance(teacher, kdtool.SparseTokens):
        ids, weights = select(teacher.ids, 1), select(teacher.weights, 1)
        return replace(signal, sparse=replace(teacher, ids=ids, weights=weights)), {}
    return signal, {} if teacher is None else {_TEACHER: select(teacher.detach(), 1)[:, :vocabulary]}


def _bind(loss: kdtool.TokenLoss, teacher: Any) -> BoundTerm:
    from kdtool_torch.terms import BoundTerm

    name = type(loss).__name__
    term = kdtool.LossTerm(name, name, 1.0, loss.temperature, teacher=None if teacher is None else _TEACHER)
    sparse = teacher if isinstance(teacher, kdtool.SparseTokens) else None
    form = sparse.form if sparse else "none" if teacher is None else "dense"
    captured = sparse.temperature if sparse else 1.0
    return BoundTerm(term, loss.kdtool_token_loss, True, form, captured, (1.0,), loss.kdtool_token_gradient)


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
