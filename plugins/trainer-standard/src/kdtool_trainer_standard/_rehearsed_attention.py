"""Attention on tensors without memory: it keeps for backward what the real kernels keep, for `_activation_memory`.

Flash attention keeps queries, keys, values, its result and the logarithms of the softmax's sums; without it,
`scaled_dot_product_attention` with a mask also keeps the mask and a copy of keys and values for each head. Of attention in
blocks of queries, a few blocks run and stand for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from kdtool_torch import Documents
from kdtool_transformers import attend_in_blocks, choose_kernel
from torch import Tensor

__all__ = ["MetaGPU", "RehearsedAttention"]


@dataclass(frozen=True)
class MetaGPU:
    """A GPU whose kernels are imitated: autocast's dtype there, and whether it has flash attention."""

    dtype: torch.dtype
    flash: bool

    def attend(self, query: Tensor, key: Tensor, value: Tensor, dropout: float, *, flash: bool) -> Tensor:
        """Keep what the chosen kernel keeps for backward, and return [B, L, heads, D]."""
        if self.dtype != torch.float32:
            query, key, value = (states.to(self.dtype) for states in (query, key, value))
        if flash:
            return _Kept.apply(query, key, value, None, dropout)  # type: ignore[no-any-return,no-untyped-call]
        copies = query.shape[1] // key.shape[1]
        if copies > 1:
            key, value = (states.repeat_interleave(copies, dim=1) for states in (key, value))
        bias = query.new_empty(query.shape[0], 1, query.shape[2], key.shape[2])
        return _Kept.apply(query, key, value, bias, dropout)  # type: ignore[no-any-return,no-untyped-call]


@dataclass(frozen=True)
class RehearsedAttention:
    """Attention of a GPU, or without one of a CPU; `count` returns the bytes alive."""

    count: Callable[[], int]
    gpu: MetaGPU | None

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
        """Return [B, L, heads, D], for `replace_attention`."""
        if self.gpu is not None:
            sizes, flash = (query.shape[-1], value.shape[-1]), self.gpu.flash
            kernel = choose_kernel("cuda", self.gpu.dtype, sizes, dropout=dropout, soft_cap=soft_cap, flash=flash)
            if kernel != "blocks":
                return self.gpu.attend(query, key, value, dropout, flash=kernel == "flash")
        return attend_in_blocks(
            query, key, value, documents.blocks(window), dropout, scale, soft_cap, run=self._run_few_blocks
        )

    def _run_few_blocks(self, attended: Callable[[list[Any]], Tensor], blocks: Sequence[Any]) -> Tensor:
        """Return a tensor like that of `attended` for all blocks, having run few.

        A block keeps bytes for each of its keys and for each of its queries, so that blocks of as many queries lie on a
        line. Those with the fewest and with the most keys run, and one tensor takes the bytes of those between. The last
        block, which may have fewer queries, runs too.
        """
        inner = sorted(blocks[:-1], key=_keys)
        if len(inner) <= 2:
            return attended([*blocks])
        outputs, grown = [], []
        for block in (inner[0], inner[-1], blocks[-1]):
            before = self.count()
            outputs.append(attended([block]))
            # Outputs are freed when they are joined.
            grown.append(self.count() - before - outputs[-1].untyped_storage().nbytes())
        slope = (grown[1] - grown[0]) / max(1, _keys(inner[-1]) - _keys(inner[0]))
        between = sum(grown[0] + slope * (_keys(block) - _keys(inner[0])) for block in inner[1:-1])
        first = outputs[0]
        left = blocks[-1].stop - sum(output.shape[1] for output in outputs)
        whole = torch.cat([*outputs, first.new_empty(first.shape[0], left, *first.shape[2:])], dim=1)
        kept = first.new_empty(max(0, round(between)), dtype=torch.uint8)
        return _Filled.apply(whole, kept)  # type: ignore[no-any-return,no-untyped-call]


def _keys(block: Any) -> int:
    return int(block.stop - block.first)


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


class _Filled(torch.autograd.Function):
    """Returns a tensor as it is, and keeps another one for backward."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("tensors without memory go forward only")
