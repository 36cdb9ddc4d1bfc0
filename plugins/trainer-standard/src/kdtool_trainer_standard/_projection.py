"""Final states to logits and back, according to a `kdtool.Head`: logits = soft_cap(scale · (h · weightᵀ + bias)).

Used by the chunked head, by the measurement of gradient norms and by the self-tests. Only the rows of the true
vocabulary take part.
"""

from __future__ import annotations

import kdtool
import torch
from torch import Tensor

__all__ = ["Projection", "product"]


class Projection:
    """A head in the dtype it computes in, for chunks of final states.

    The cast of the weight is made once here, not once a chunk.
    """

    def __init__(self, head: kdtool.Head, dtype: torch.dtype | None = None) -> None:
        dtype = dtype or head.weight.dtype
        self.head = head
        self.dtype = dtype
        self.weight = head.weight.detach()[: head.vocabulary].to(dtype)  # [V, H]
        self.bias = None if head.bias is None else head.bias.detach()[: head.vocabulary].to(dtype)  # [V]

    @property
    def vocabulary(self) -> int:
        """The true vocabulary V."""
        return self.weight.shape[0]

    def logits(self, hidden: Tensor, out: Tensor | None = None) -> Tensor:
        """Return logits [C, V] of final states [C, H], without gradient; written to `out` [>= C, V] if given."""
        target = None if out is None else out[: hidden.shape[0]]
        z = torch.mm(hidden.detach().to(self.dtype), self.weight.t(), out=target)
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
    if a.is_cuda and a.dtype in (torch.float16, torch.bfloat16):
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a.float(), b.float()) if a.dtype == torch.float16 else torch.mm(a, b)
