"""Causal language models of transformers as generation and measurement use them: interface, layers, and loading in silence.

Imports torch, but not transformers.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import kdtool
from kdtool_torch import layers_among
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


@contextmanager
def no_progress_bar() -> Iterator[None]:
    """Keep transformers' bars for loading and saving off the terminal while the block runs."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
