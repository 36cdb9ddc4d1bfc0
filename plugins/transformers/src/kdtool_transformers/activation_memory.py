"""Memory of the activations that a student keeps for backward, counted on tensors without memory.

The model's own code runs on its outline, under PyTorch's `FakeTensorMode`, and what is alive afterwards is counted: so
every family, adapter and dtype of autocast is as it will be, and no formula has to follow the code. Only two layers of
each kind run; the second stands for the others.

Attention is replaced by one that keeps for backward what the real kernels keep. Flash attention keeps queries, keys,
values, its result and the logarithms of the softmax's sums; without it, `scaled_dot_product_attention` with a mask also
keeps the mask and a copy of keys and values for each head.
"""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from kdtool_torch import Documents, stored_bytes
from kdtool_torch.estimates import ActivationMemory
from kdtool_torch.machine import frozen_dtypes, looked_up_in_float32
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from kdtool_transformers.attention import (
    CausalModel,
    attend_in_blocks,
    causal_of,
    choose_kernel,
    decoder_layers,
    document_masks_skipped,
    has_document_attention,
    replace_attention,
)


def estimate_activation_memory(
    student: CausalModel,
    rows: int,
    length: int,
    dtype: torch.dtype,
    passes: int = 1,
    *,
    gpu: bool = False,
    flash: bool = False,
) -> ActivationMemory:
    """Run the backbone of a copy of an outline on a micro-batch in `dtype`, on tensors without memory.

    Args:
        student: the outline. Its weights may be on the meta device.
        rows: of the micro-batch.
        length: of a row, in tokens.
        dtype: of autocast.
        passes: how often it runs before backward.
        gpu: keep what the attention of a GPU keeps, not that of a CPU.
        flash: the GPU has flash attention.
    """
    model = _copy_without_memory(student.model, dtype).train()
    causal = causal_of(model)
    left_out = _keep_two_of_a_kind(causal)
    forward = partial(_forward, causal, rows, length, dtype, MetaGPU(dtype, flash) if gpu else None, left_out)
    recomputed = 0
    with looked_up_in_float32(model):
        saved, _, draws = forward(passes)
        if any(getattr(layer, "gradient_checkpointing", False) for layer in decoder_layers(causal)):
            causal.activation_checkpointing_disable()
            _, recomputed, _ = forward(1)
    return ActivationMemory(max(0, saved - passes * _uncounted_copies(student.model, dtype)), recomputed, draws)


def _copy_without_memory(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy whose weights claim to be on the CPU but have no memory, in the dtypes in which a phase keeps them.

    Shared weights stay shared.
    """
    mode, targets = FakeTensorMode(allow_non_fake_inputs=True), frozen_dtypes(model, dtype)
    made: dict[int, Tensor] = {}

    def fake(tensor: Tensor, kept: torch.dtype) -> Tensor:
        return FakeTensor(mode, tensor.detach().to("meta", kept), torch.device("cpu"))

    for name, weight in model.named_parameters():
        made[id(weight)] = nn.Parameter(fake(weight, targets.get(name, weight.dtype)), weight.requires_grad)
    for buffer in model.buffers():
        made[id(buffer)] = fake(buffer, buffer.dtype)
    return deepcopy(model, made)


def _uncounted_copies(model: nn.Module, dtype: torch.dtype) -> int:
    """Return the copies that autocast made here of weights which are stored in few bits and dequantised for each use."""
    few = (p.numel() for p in model.parameters() if stored_bytes(p) != p.numel() * p.dtype.itemsize)
    return 0 if dtype == torch.float32 else sum(few) * dtype.itemsize


def _forward(
    causal: Any,
    rows: int,
    length: int,
    dtype: torch.dtype,
    gpu: MetaGPU | None,
    left_out: Mapping[Any, int],
    passes: int,
) -> tuple[int, int, bool]:
    """Return the bytes kept by whole forward passes, the most that one layer keeps, and whether random numbers are drawn."""
    positions = torch.arange(length).expand(rows, length)
    documents = Documents(positions, torch.zeros(rows, length, dtype=torch.int32))
    ours = has_document_attention(causal)
    inputs = {"input_ids": torch.zeros(rows, length, dtype=torch.int64), "position_ids": positions, "use_cache": False}
    inputs |= {"documents": documents} if ours else {}
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)
    with _Alive(causal) as alive, autocast, torch.enable_grad():
        masks = document_masks_skipped() if ours else nullcontext()
        attention = nullcontext() if gpu is None else replace_attention(gpu.attend_within)
        with masks, attention, _record_layers(causal, alive) as grown:
            last = [causal.base_model(**inputs).last_hidden_state for _ in range(passes)]
        total = alive.bytes
        del last
    for kind, count in left_out.items():
        total += count * sum(grown[kind][1::2])  # the second layer of each pass
    return total, max((size for sizes in grown.values() for size in sizes), default=0), alive.draws


def _keep_two_of_a_kind(causal: Any) -> dict[Any, int]:
    """Remove all layers except two of each kind, and return how many were removed of each."""
    layers, config = decoder_layers(causal), causal.config.get_text_config()
    seen: Counter[Any] = Counter()
    left = []
    for layer in layers:
        seen[_kind(layer)] += 1
        if seen[_kind(layer)] <= 2:
            left.append(layer)
    layers._modules = {str(number): layer for number, layer in enumerate(left)}
    config.num_hidden_layers = len(left)
    if types := getattr(config, "layer_types", None):
        config.layer_types = types[: len(left)]
    return {kind: count - 2 for kind, count in seen.items() if count > 2}


def _kind(layer: nn.Module) -> Any:
    return tuple((name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in layer.named_parameters())


@contextmanager
def _record_layers(causal: Any, alive: _Alive) -> Iterator[dict[Any, list[int]]]:
    """Record the activations that each layer keeps, by its kind."""
    grown: dict[Any, list[int]] = defaultdict(list)
    before: list[int] = []

    def before_layer(_module: nn.Module, _inputs: Any) -> None:
        before.append(alive.bytes)

    def after_layer(module: nn.Module, _inputs: Any, _output: Any) -> None:
        grown[_kind(module)].append(alive.bytes - before[-1])

    with ExitStack() as hooks:
        for layer in decoder_layers(causal):
            hooks.enter_context(layer.register_forward_pre_hook(before_layer))
            hooks.enter_context(layer.register_forward_hook(after_layer))
        yield grown


class _Alive(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the memory that results would take as long as anything refers to them; views of weights take none."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0
        self.draws = False
        held = (*model.parameters(), *model.buffers())
        self._sizes = {tensor.untyped_storage()._cdata: 0 for tensor in held}

    def __torch_dispatch__(
        self, func: torch._ops.OpOverload, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.draws |= torch.Tag.nondeterministic_seeded in func.tags
        if func is torch.ops.aten._grouped_mm.default:  # of experts: on tensors without memory it takes bfloat16 only
            result = args[0].new_empty(len(args[0]), args[1].shape[-1])
        else:
            result = func(*args, **(kwargs or {}))
        for value in tree_flatten(result)[0]:
            if isinstance(value, Tensor):
                storage = value.untyped_storage()
                if storage._cdata not in self._sizes:
                    self._sizes[storage._cdata] = storage.nbytes()
                    self.bytes += storage.nbytes()
                    weakref.finalize(storage, self._gone, storage._cdata)
        return result

    def _gone(self, key: int) -> None:
        self.bytes -= self._sizes.pop(key, 0)


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
