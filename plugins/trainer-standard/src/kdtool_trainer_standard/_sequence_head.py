"""The head that sequence losses project with: its weight is cast once a micro-batch, and so is the gradient by it.

Sequence losses ask for logits of one chunk of positions after the other. With a plain `kdtool.Head` autocast would cast the
whole weight for each, and autograd would add up gradients [V, H] of all chunks in the dtype of products.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import kdtool
import torch
from kdtool_torch import logits_product, scale_and_cap
from torch import Tensor

from kdtool_trainer_standard._projection import add_product, product

__all__ = ["SequenceHead", "sequence_head"]


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
