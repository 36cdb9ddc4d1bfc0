"""Estimates the memory of activations that a student keeps for backward, with FakeTensors.

`_outlines` calls `estimate_activation_memory` with a student's outline when a recipe is checked. The model's own code runs,
under PyTorch's `FakeTensorMode`, and what is alive afterwards is counted: so every family, adapter and dtype of autocast is
as it will be, and no formula has to follow the code. Only two layers of each kind run; the second stands for the others.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_torch import Documents, store_as, stored_bytes
from kdtool_transformers import (
    TransformersFacts,
    TransformersModel,
    causal_of,
    decoder_layers,
    document_masks_skipped,
    has_document_attention,
    outline_of,
    replace_attention,
)
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten
from transformers import LlamaConfig

from kdtool_trainer_standard._rehearsed_attention import MetaGPU, RehearsedAttention

__all__ = ["ActivationMemory", "OutlineFromFacts", "estimate_activation_memory"]


class ActivationMemory(NamedTuple):
    """Bytes of one micro-batch: `kept` from forward for backward, copies of weights in the compute dtype among them.

    `recompute_bytes` is the memory of one layer that is computed a second time, 0 if none is. `draws` is True if the forward
    pass draws random numbers, as dropout does.
    """

    kept: int
    recompute_bytes: int
    draws: bool = False


class OutlineFromFacts(TransformersModel):
    """The outline of a Llama with the shapes of `facts`, for a model without an outline.

    Activations are those of the Llama; `facts`, and so the number of parameters, are those of the model.
    """

    def __init__(self, facts: kdtool.ModelFacts) -> None:
        heads = facts.heads or 1
        size = facts.head_size or max(1, facts.hidden // heads)
        config = LlamaConfig(
            vocab_size=facts.vocabulary,
            hidden_size=facts.hidden,
            intermediate_size=facts.feed_forward or 4 * facts.hidden,
            num_hidden_layers=facts.layers,
            num_attention_heads=heads,
            num_key_value_heads=facts.kv_heads if facts.kv_heads and heads % facts.kv_heads == 0 else heads,
            head_dim=size + size % 2,  # rotary embeddings turn pairs
            tie_word_embeddings=facts.tied,
        )
        outline = outline_of(config)
        super().__init__(outline.model, outline.tokenizer)
        self._facts = TransformersFacts(**asdict(facts), config=config)

    @property
    def facts(self) -> TransformersFacts:
        """Shapes of the model, not of the Llama."""
        return self._facts


def estimate_activation_memory(
    student: TransformersModel,
    rows: int,
    length: int,
    dtype: torch.dtype,
    passes: int = 1,
    *,
    gpu: bool = False,
    flash: bool = False,
) -> ActivationMemory:
    """Run the backbone of an outline on a micro-batch in `dtype`, on tensors without memory.

    Args:
        student: the outline. Its weights may be on the meta device; they are replaced.
        rows: of the micro-batch.
        length: of a row, in tokens.
        dtype: of autocast.
        passes: how often it runs before backward.
        gpu: keep what the attention of a GPU keeps, not that of a CPU.
        flash: the GPU has flash attention.
    """
    causal = causal_of(student.model)
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    _without_memory(student.model, mode)
    student.model.train()
    forward = partial(
        _forward, causal, decoder_layers(causal), rows, length, dtype, MetaGPU(dtype, flash) if gpu else None
    )
    saved, _, draws = forward(passes)
    recomputed = 0
    if any(getattr(layer, "gradient_checkpointing", False) for layer in decoder_layers(causal)):
        causal.activation_checkpointing_disable()
        _, recomputed, _ = forward(1)
        causal.activation_checkpointing_enable({"use_reentrant": False})
    return ActivationMemory(max(0, saved - passes * _uncounted_copies(student.model, dtype)), recomputed, draws)


def _uncounted_copies(model: nn.Module, dtype: torch.dtype) -> int:
    """Return the copies that autocast made here of weights which are stored in few bits and dequantised for each use."""
    few = filter(_is_packed, model.parameters())
    return 0 if dtype == torch.float32 else sum(p.numel() * dtype.itemsize for p in few)


def _is_packed(parameter: Tensor) -> bool:
    """Return whether a weight will be stored in other bytes than those of its dtype."""
    return stored_bytes(parameter) != parameter.numel() * parameter.dtype.itemsize


def _forward(
    causal: Any, layers: nn.ModuleList, rows: int, length: int, dtype: torch.dtype, gpu: MetaGPU | None, passes: int
) -> tuple[int, int, bool]:
    """Return the bytes kept by whole forward passes, the most that one layer keeps, and whether random numbers are drawn."""
    positions = torch.arange(length).expand(rows, length)
    documents = Documents(positions, torch.zeros(rows, length, dtype=torch.int32))
    ours = has_document_attention(causal)
    inputs = {"input_ids": torch.zeros(rows, length, dtype=torch.int64), "position_ids": positions, "use_cache": False}
    inputs |= {"documents": documents} if ours else {}
    autocast = nullcontext() if dtype == torch.float32 else torch.autocast("cpu", dtype)
    with _two_of_a_kind(causal, layers) as counts, _Alive(causal) as alive, autocast, torch.enable_grad():
        masks = document_masks_skipped() if ours else nullcontext()
        rehearsed = RehearsedAttention(lambda: alive.bytes, gpu)
        with masks, replace_attention(rehearsed.attend_within), _record_layers(layers, alive) as grown:
            last = [causal.base_model(**inputs).last_hidden_state for _ in range(passes)]
        total = alive.bytes
        del last
    for kind, extra in counts.items():
        total += extra * sum(grown[kind][1::2])  # the second layer of each pass, where there are more than two
    return total, max((size for sizes in grown.values() for size in sizes), default=0), alive.draws


@contextmanager
def _two_of_a_kind(causal: Any, layers: nn.ModuleList) -> Iterator[dict[Any, int]]:
    """Keep two layers of each kind, and yield how many more there are."""
    whole = dict(layers._modules)
    count: Counter[Any] = Counter(map(_kind, layers))
    seen: Counter[Any] = Counter()
    left = []
    for layer in layers:
        seen[_kind(layer)] += 1
        if seen[_kind(layer)] <= 2:
            left.append(layer)
    config = causal.config.get_text_config()
    layers._modules = {str(number): layer for number, layer in enumerate(left)}
    numbers, config.num_hidden_layers = config.num_hidden_layers, len(left)
    types = getattr(config, "layer_types", None)
    if types:
        config.layer_types = types[: len(left)]
    try:
        yield {kind: max(0, number - 2) for kind, number in count.items()}
    finally:
        layers._modules, config.num_hidden_layers = whole, numbers
        if types:
            config.layer_types = types


def _kind(layer: nn.Module) -> Any:
    return tuple((name, tuple(p.shape), p.dtype, p.requires_grad) for name, p in layer.named_parameters())


@contextmanager
def _record_layers(layers: nn.ModuleList, alive: _Alive) -> Iterator[dict[Any, list[int]]]:
    """Record the activations that each layer keeps."""
    grown: dict[Any, list[int]] = {_kind(layer): [] for layer in layers}
    before: list[int] = []

    def before_layer(_module: nn.Module, _inputs: Any) -> None:
        before.append(alive.bytes)

    def after_layer(module: nn.Module, _inputs: Any, _output: Any) -> None:
        grown[_kind(module)].append(alive.bytes - before[-1])

    hooks = [
        hook
        for la in layers
        for hook in (la.register_forward_pre_hook(before_layer), la.register_forward_hook(after_layer))
    ]
    try:
        yield grown
    finally:
        for hook in hooks:
            hook.remove()


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


def _without_memory(model: nn.Module, mode: FakeTensorMode) -> None:
    """Replace weights by tensors that claim to be on the CPU but have no memory; shared ones stay shared."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is None or isinstance(parameter, FakeTensor):
                continue
            if id(parameter) not in made:
                fake = FakeTensor(mode, parameter.detach().to("meta"), torch.device("cpu"))
                made[id(parameter)] = nn.Parameter(fake, requires_grad=parameter.requires_grad)
                if _is_packed(parameter):
                    store_as(made[id(parameter)], stored_bytes(parameter))
            module._parameters[name] = made[id(parameter)]
        for name, buffer in module._buffers.items():
            if buffer is not None and not isinstance(buffer, FakeTensor):
                module._buffers[name] = FakeTensor(mode, buffer.to("meta"), torch.device("cpu"))
