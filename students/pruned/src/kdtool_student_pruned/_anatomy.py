"""Anatomy of a source: the axes of every weight, and so the number of parameters of any smaller shape of it.

Counting (`_solve`) and cutting (`_cut`) read the same table. Built from a model on the meta device: no weights.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod

from kdtool_transformers import TransformersFacts, without_weights

from kdtool_student_pruned._configuration import smaller_config
from kdtool_student_pruned._shape import Shape

__all__ = ["CLASSES", "Anatomy", "axes_of"]

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
