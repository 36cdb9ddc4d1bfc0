"""The decoder layers of a causal LM: where they are, and what they return."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kdtool
from torch import Tensor, nn

__all__ = ["decoder_layers", "layer_outputs", "layers_among"]


def decoder_layers(causal: Any) -> nn.ModuleList:
    """Return the decoder layers of a causal LM, under any name."""
    count = causal.config.get_text_config().num_hidden_layers
    layers = layers_among(causal.base_model, count)
    if layers is None:
        raise kdtool.PluginError(
            f"{type(causal).__name__} does not keep its {count} layers in a list that kdtool can find"
        )
    return layers


def layers_among(model: nn.Module, count: int) -> nn.ModuleList | None:
    """Return the first list of `count` modules inside a model, which are its layers; None if there is none."""
    for module in model.modules():
        for child in module.children():
            if isinstance(child, nn.ModuleList) and len(child) == count:
                return child
    return None


@contextmanager
def layer_outputs(causal: Any, layers: Sequence[int]) -> Iterator[dict[int, Tensor]]:
    """Collect the outputs of decoder layers while the block runs; other passes run without hooks."""
    states: dict[int, Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            states[layer] = output[0] if isinstance(output, tuple) else output

        return hook

    modules = decoder_layers(causal) if layers else ()
    hooks = [modules[layer].register_forward_hook(keep(layer)) for layer in layers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()
