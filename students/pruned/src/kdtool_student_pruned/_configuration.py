"""The configuration of a model with fewer layers and smaller widths."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from kdtool_student_pruned._shape import Shape

__all__ = ["smaller_config"]


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
