"""Attention on tensors without memory: it keeps for backward what the real kernels keep, for `_activation_memory`.

Flash attention keeps queries, keys, values, its result and the logarithms of the softmax's sums; without it,
`scaled_dot_product_attention` with a mask also keeps the mask and a copy of keys and values for each head.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from kdtool_torch import Documents
from kdtool_transformers import attend_in_blocks, choose_kernel
from torch import Tensor

__all__ = ["MetaGPU"]


@dataclass(frozen=True)
class MetaGPU:
    """A GPU whose attention is imitated: autocast's dtype there, and whether it has flash attention."""

    dtype: torch.dtype
    flash: bool

    def attend_within(
        self,
        documents: Documents,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        window: int | None,
        dropout: float,
        scale: float,
        soft_cap: float | None,
    ) -> Tensor:
        """Keep what the chosen kernel keeps for backward, and return [B, L, heads, D], for `replace_attention`."""
        sizes = (query.shape[-1], value.shape[-1])
        kernel = choose_kernel("cuda", self.dtype, sizes, dropout=dropout, soft_cap=soft_cap, flash=self.flash)
        if kernel == "blocks":
            return attend_in_blocks(query, key, value, documents.blocks(window), dropout, scale, soft_cap)
        if self.dtype != torch.float32:
            query, key, value = (states.to(self.dtype) for states in (query, key, value))
        bias, copies = None, query.shape[1] // key.shape[1]
        if kernel == "sdpa":
            bias = query.new_empty(query.shape[0], 1, query.shape[2], key.shape[2])
            if copies > 1:
                key, value = (states.repeat_interleave(copies, dim=1) for states in (key, value))
        return _Kept.apply(query, key, value, bias, dropout)  # type: ignore[no-any-return,no-untyped-call]


class _Kept(torch.autograd.Function):
    """Saves the tensors that a fused kernel saves. It runs on tensors without memory, so its values are undefined."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
        batch, heads, length, _ = query.shape
        mixed = query.new_empty(batch, length, heads, value.shape[-1])
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        if dropout > 0:
            torch.nn.functional.dropout(sums, dropout)  # it draws random numbers
        ctx.save_for_backward(query, key, value, mixed, sums, *(() if bias is None else (bias,)))
        return mixed

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("tensors without memory go forward only")
