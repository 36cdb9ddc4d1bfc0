"""Attention kernels of GPUs on tensors without memory: they save for backward what the real ones do.

`attend` asks `meta_gpu` first. Flash attention keeps queries, keys, values, its result and the logarithms of the softmax's
sums; without it, `scaled_dot_product_attention` with a mask also keeps the mask and a copy of keys and values for each head.
On CPUs a few blocks of queries run and stand for all of them: `attended_in_few_blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["MetaGPU", "attended_in_few_blocks", "few_blocks", "gpu_kernels", "meta_gpu"]


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


_gpu: ContextVar[MetaGPU | None] = ContextVar("kdtool_meta_gpu", default=None)


def meta_gpu() -> MetaGPU | None:
    """Return the GPU whose kernels stand in for those of this machine; None outside of rehearsals for a GPU."""
    return _gpu.get()


@contextmanager
def gpu_kernels(dtype: torch.dtype, *, flash: bool) -> Iterator[None]:
    """Have `attend` choose and keep within the block what it would on a GPU, in autocast's `dtype`."""
    token = _gpu.set(MetaGPU(dtype, flash))
    try:
        yield
    finally:
        _gpu.reset(token)


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


_count: ContextVar[Callable[[], int] | None] = ContextVar("kdtool_bytes_alive", default=None)


@contextmanager
def few_blocks(count: Callable[[], int] | None) -> Iterator[None]:
    """Have attention in blocks run few of them within the block; `count` returns the bytes alive. None: all of them run."""
    token = _count.set(count)
    try:
        yield
    finally:
        _count.reset(token)


def attended_in_few_blocks(attended: Callable[[list[Any]], Tensor], blocks: Sequence[Any]) -> Tensor | None:
    """Return a tensor like that of `attended` for all blocks, having run few; None outside of rehearsals.

    A block keeps bytes for each of its keys and for each of its queries, so that blocks of as many queries lie on a line.
    Those with the fewest and with the most keys run, and one tensor takes the bytes of those between. The last block, which
    may have fewer queries, runs too.
    """
    count, inner = _count.get(), sorted(blocks[:-1], key=_keys)
    if count is None or len(inner) <= 2:
        return None
    outputs, grown = [], []
    for block in (inner[0], inner[-1], blocks[-1]):
        before = count()
        outputs.append(attended([block]))
        grown.append(count() - before - outputs[-1].untyped_storage().nbytes())  # outputs go when they are joined
    slope = (grown[1] - grown[0]) / max(1, _keys(inner[-1]) - _keys(inner[0]))
    between = sum(grown[0] + slope * (_keys(block) - _keys(inner[0])) for block in inner[1:-1])
    first = outputs[0]
    left = blocks[-1].stop - sum(output.shape[1] for output in outputs)
    whole = torch.cat([*outputs, first.new_empty(first.shape[0], left, *first.shape[2:])], dim=1)
    kept = first.new_empty(max(0, round(between)), dtype=torch.uint8)
    return _Filled.apply(whole, kept)  # type: ignore[no-any-return,no-untyped-call]


def _keys(block: Any) -> int:
    return int(block.stop - block.first)


class _Filled(torch.autograd.Function):
    """Gives a tensor as it is, and keeps another one for backward."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, kept: Tensor) -> Tensor:
        ctx.save_for_backward(kept)
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        raise NotImplementedError("tensors without memory go forward only")
