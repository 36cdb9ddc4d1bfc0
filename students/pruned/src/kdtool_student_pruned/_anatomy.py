"""Anatomy of a source: its sizes, the axes of every weight, and the configuration of a smaller model.

Counting the parameters of a shape and cutting weights read the same table of axes. `Anatomy` is built from a model on the
meta device: no weights load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import kdtool
import torch
from kdtool_transformers import TransformersFacts, without_weights


class Shape(NamedTuple):
    """Sizes of a model. The size of a head is its source's."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int

    def __str__(self) -> str:
        heads = kdtool.count_of(self.heads, "head")
        if self.heads != self.kv_heads:
            heads += f" on {kdtool.count_of(self.kv_heads, 'KV head')}"
        return (
            f"{kdtool.count_of(self.layers, 'layer')}, hidden {self.hidden}, {heads}, feed-forward {self.feed_forward}"
        )


CLASSES = {"llama": "Llama", "qwen2": "Qwen2", "starcoder2": "Starcoder2"}
"""Model types whose widths can be cut: their weights have the names below and no others, and a plain norm before each."""
_AXES = {
    "embed_tokens": ("rows", "hidden"),
    "lm_head": ("rows", "hidden"),
    "norm": ("hidden",),
    "input_layernorm": ("hidden",),
    "post_attention_layernorm": ("hidden",),
    "q_proj": ("heads", "hidden"),
    "k_proj": ("kv_heads", "hidden"),
    "v_proj": ("kv_heads", "hidden"),
    "o_proj": ("hidden", "heads"),
    "gate_proj": ("feed_forward", "hidden"),
    "up_proj": ("feed_forward", "hidden"),
    "down_proj": ("hidden", "feed_forward"),
    "c_fc": ("feed_forward", "hidden"),
    "c_proj": ("hidden", "feed_forward"),
}


@dataclass(frozen=True)
class Anatomy:
    """A source's shape and the weights that it consists of.

    `model_type` is transformers' name of its class. `outside` and `inside` count weights by their axes, outside of layers
    and in one layer; both are empty for a class whose widths cannot be cut.
    """

    model_type: str
    shape: Shape
    head_size: int
    rows: int
    outside: Counter[tuple[str, ...]]
    inside: Counter[tuple[str, ...]]

    @classmethod
    def of(cls, facts: TransformersFacts) -> Anatomy:
        """Return the anatomy of a described model."""
        config = facts.configuration
        outside: Counter[tuple[str, ...]] = Counter()
        inside: Counter[tuple[str, ...]] = Counter()
        if config.model_type in CLASSES:
            for name, _ in without_weights(smaller_config(config, (0,))).named_parameters():
                (inside if ".layers." in name else outside)[axes_of(name)] += 1
        return cls(
            model_type=config.model_type,
            shape=Shape(facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.feed_forward),
            head_size=int(getattr(config, "head_dim", None) or facts.hidden // facts.heads),
            rows=config.vocab_size,
            outside=outside,
            inside=inside,
        )

    @property
    def heads_fill_hidden(self) -> bool:
        """Return whether llama.cpp opens this class only where heads times head size is the hidden size."""
        return self.model_type != "llama"

    def can_open(self, hidden: int, heads: int) -> bool:
        """Return whether transformers opens this class in this shape: Llama's width must be a multiple of its heads."""
        return self.model_type != "llama" or hidden % heads == 0

    def parameters(self, shape: Shape) -> int:
        """Count the parameters of a shape, embeddings included."""
        return self._count(self.outside, shape) + shape.layers * self._count(self.inside, shape)

    def embedding_parameters(self, shape: Shape) -> int:
        """Count the embedding, and the head if it is a separate matrix."""
        return self.outside["rows", "hidden"] * self.rows * shape.hidden

    def _count(self, weights: Counter[tuple[str, ...]], shape: Shape) -> int:
        sizes = {
            "rows": self.rows,
            "hidden": shape.hidden,
            "heads": shape.heads * self.head_size,
            "kv_heads": shape.kv_heads * self.head_size,
            "feed_forward": shape.feed_forward,
        }
        return sum(number * prod(sizes[axis] for axis in axes) for axes, number in weights.items())


def axes_of(name: str) -> tuple[str, ...]:
    """Return what the dimensions of a weight stand for, by its name within the model."""
    _, module, kind = f".{name}".rsplit(".", 2)
    return _AXES[module] if kind == "weight" else _AXES[module][:1]


def smaller_config(config: Any, layers: Sequence[int], shape: Shape | None = None, context: int | None = None) -> Any:
    """Copy a configuration for some of the layers, in float32: their count, and every list with an entry for each.

    With a `shape`, also set its widths; with a `context`, its length. Heads keep their size. Norms take the mean square over
    fewer channels, which is greater for the rest, so the constant that they add is scaled up alike.
    """
    smaller, count = deepcopy(config), config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == count and name != "architectures":
            setattr(smaller, name, [value[layer] for layer in layers])
    smaller.num_hidden_layers = len(layers)
    smaller.dtype = torch.float32
    if context is not None:
        smaller.max_position_embeddings = context
    if shape is not None:
        _take_widths(smaller, shape)
    return smaller


def _take_widths(config: Any, shape: Shape) -> None:
    explicit_size = getattr(config, "head_dim", None)
    head_size = explicit_size or config.hidden_size // config.num_attention_heads
    if explicit_size or head_size * shape.heads != shape.hidden:
        config.head_dim = head_size
    for name in ("rms_norm_eps", "norm_epsilon"):
        if hasattr(config, name):
            setattr(config, name, getattr(config, name) * config.hidden_size / shape.hidden)
    config.hidden_size = shape.hidden
    config.num_attention_heads = shape.heads
    config.num_key_value_heads = shape.kv_heads
    config.intermediate_size = shape.feed_forward
