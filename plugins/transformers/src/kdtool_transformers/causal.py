"""Causal language models of transformers as generation, measurement and the trainer use them: interface and layers.

Imports torch, but not transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kdtool
from torch import Tensor, nn

from kdtool_transformers.tokenizer import TransformersTokenizer


class CausalModel(kdtool.LanguageModel):
    """A `PreTrainedModel` with a language-model head, and its tokenizer. `TransformersModel` is its only implementation."""

    model: Any
    tokenizer: TransformersTokenizer


def causal_of(model: Any) -> Any:
    """Return the causal LM itself, also if an adapter wraps it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def cache_name(model: Any) -> str:
    """Return the name of the cache among the arguments of a causal LM: `past_key_values` before transformers 5.24."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def context_of(model: Any) -> int:
    """Return the greatest number of tokens that a model reads, without counting its weights; 0 if it is unknown."""
    return int(getattr(causal_of(model).config.get_text_config(), "max_position_embeddings", 0))


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
