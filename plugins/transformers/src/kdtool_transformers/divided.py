"""A frozen model whose layers are divided among the processes of a run (FSDP2): each is gathered while it runs.

Embedding, final norm and head stay whole on each process, since losses compute logits with the head itself. Files of
weights are mapped, and layers are read, converted and divided one after the other, so that a process holds its part and
one layer at most.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard

from kdtool_transformers.attention import decoder_layers
from kdtool_transformers.weights import weight_files


def processes() -> int:
    """Return how many processes train together in this run's group; 1 before there is a group."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def read_divided(folder: Path, config: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Read a causal LM's weights, keeping of each layer only this process's part; None where that is not so simple.

    So it is with weights that transformers merges while it loads, such as a mixture's experts, and that it keeps in float32.
    """
    causal = _without_weights(config)
    with ExitStack() as stack:
        stored = {name: file for file in _open_files(folder, stack) for name in file.keys()}  # noqa: SIM118 - not a mapping
        tied = set(causal.all_tied_weights_keys or ())
        mixed = causal._keep_in_fp32_modules or causal._keep_in_fp32_modules_strict
        if mixed or not {name for name, _ in causal.named_parameters()} <= stored.keys() | tied:
            return None
        names = {module: name for name, module in causal.named_modules()}
        for layer in decoder_layers(causal):
            _fill(layer, names[layer], stored, dtype)
            fully_shard(layer, mesh=_mesh(device.type))
        _fill(causal, "", stored, dtype)
        causal.tie_weights()
    _divide_root(causal, device)
    return causal


def divide_layers(causal: Any, device: torch.device) -> None:
    """Keep only this process's part of each decoder layer of a whole causal LM, on `device`, and the rest there whole."""
    for layer in decoder_layers(causal):
        fully_shard(layer, mesh=_mesh(device.type))
    _divide_root(causal, device)


def divided_bytes(causal: Any, dtype: torch.dtype, world: int) -> int:
    """Return the bytes of a process's part in `dtype` and of the two layers gathered at once; works on the meta device."""
    layers = [_values(layer) for layer in decoder_layers(causal)]
    rest = _values(causal) - sum(layers)
    return (rest + sum(layers) // world + 2 * max(layers)) * dtype.itemsize


def _divide_root(causal: Any, device: torch.device) -> None:
    """Let the model gather each layer while the one before runs; the root itself divides nothing."""
    fully_shard(causal.base_model, mesh=_mesh(device.type), ignored_params=set(_whole_weights(causal)))
    causal.to(device)


def _whole_weights(causal: Any) -> Iterator[nn.Parameter]:
    divided = {weight for layer in decoder_layers(causal) for weight in layer.parameters()}
    return (weight for weight in causal.parameters() if weight not in divided)


def _fill(module: nn.Module, prefix: str, stored: Mapping[str, Any], dtype: torch.dtype) -> None:
    """Give the weights of a module that have no memory yet their stored values in `dtype`."""
    names = [name for name, weight in module.named_parameters() if weight.is_meta]
    found = {
        name: stored[where].get_tensor(where) for name in names if (where := f"{prefix}.{name}".strip(".")) in stored
    }
    module.load_state_dict({name: tensor.to(dtype) for name, tensor in found.items()}, strict=False, assign=True)


def _without_weights(config: Any) -> Any:
    """Build a causal LM with buffers, but without memory for its weights."""
    from accelerate import init_empty_weights
    from kdtool_torch import isolated_rng
    from transformers import AutoModelForCausalLM

    with isolated_rng(), init_empty_weights(include_buffers=False):
        causal = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return causal.requires_grad_(False)


def _open_files(folder: Path, stack: ExitStack) -> Iterator[Any]:
    for file in weight_files(folder):
        yield stack.enter_context(safe_open(file, framework="pt"))


@cache
def _mesh(device: str) -> DeviceMesh:
    return init_device_mesh(device, (processes(),))


def _values(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())
