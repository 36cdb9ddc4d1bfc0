"""Products of half-precision operands in float32: CUDA adds them up in float32, and can return the sums unrounded.

Bfloat16 keeps 8 bits of a logit: a probability computed from rounded ones is off by some per cent.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor, device, dtype

__all__ = ["logits_product", "product_in_float32", "returns_float32", "scale_and_cap", "unrounded_logits"]


def returns_float32(device: device, dtype: dtype) -> bool:
    """Return whether products of half-precision operands are available in float32, unrounded."""
    import torch

    return device.type == "cuda" and dtype in (torch.float16, torch.bfloat16)


def product_in_float32(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a · b of half-precision operands in float32; only where `returns_float32` is True."""
    import torch

    if out is None:
        return torch.mm(a, b, out_dtype=torch.float32)
    return torch.mm(a, b, out_dtype=torch.float32, out=out)


def logits_product(a: Tensor, b: Tensor, out: Tensor | None = None) -> Tensor:
    """Return a · b for logits: in float32 if the device returns that, else in the operands' dtype; in `out` if given."""
    import torch

    return product_in_float32(a, b, out) if returns_float32(a.device, a.dtype) else torch.mm(a, b, out=out)


def unrounded_logits(head: kdtool.Head, states: Tensor) -> Tensor:
    """Return logits [N, V] of final states [N, H] by the head's own weight, without its gradient.

    In float32 if the device returns that from the weight's dtype, else in that dtype.
    """
    weight = head.weight.detach()[: head.vocabulary]
    products = logits_product(states.to(weight.dtype), weight.t())
    return scale_and_cap(head, products if head.bias is None else products + head.bias.detach()[: head.vocabulary])


def scale_and_cap(head: kdtool.Head, products: Tensor) -> Tensor:
    """Return the head's logits of h · weightᵀ + bias."""
    logits = products if head.scale == 1.0 else products * head.scale
    return logits if head.soft_cap is None else head.soft_cap * (logits / head.soft_cap).tanh()
