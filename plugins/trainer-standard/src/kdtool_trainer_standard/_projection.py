"""Final states to logits and back, according to a `kdtool.Head`: logits = soft_cap(scale · (h · weightᵀ + bias)).

Used by the chunked head, by the heads of sequence losses, by the measurement of gradient norms and by the self-tests. Only
the rows of the true vocabulary take part.
"""

from __future__ import annotations

import kdtool
import torch
from kdtool_torch import logits_product, product_in_float32, returns_float32
from torch import Tensor

__all__ = ["SUMMED_ROWS", "Projection", "add_product", "product"]

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
