"""Builds a model with some of another's decoder layers."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import kdtool
import torch
from kdtool_transformers import TransformersModel, alone, decoder_layers

__all__ = ["cut"]


def cut(source: TransformersModel, keep: tuple[int, ...]) -> TransformersModel:
    """Return a new model in float32 with layers `keep` of `source`, everything else copied. `source` is left as it is.

    Raises:
        UsageError: the family scales its attention by the layer's number, which cutting changes.
    """
    causal = source.model
    if getattr(causal.config, "scale_attn_by_inverse_layer_idx", False):
        raise kdtool.UsageError(f"{type(causal).__name__} scales attention by the layer's number: it cannot be cut")
    layers = decoder_layers(causal)
    path = next(name for name, module in causal.named_modules() if module is layers)
    with alone():  # the constructor draws weights, which are replaced at once
        student = type(causal)(_smaller(causal.config, keep)).to(torch.float32)
    numbers = {str(old): str(new) for new, old in enumerate(keep)}
    weights = {}
    for name, weight in causal.state_dict().items():
        if not name.startswith(f"{path}."):
            weights[name] = weight
            continue
        number, _, rest = name.removeprefix(f"{path}.").partition(".")
        if number in numbers:
            weights[f"{path}.{numbers[number]}.{rest}"] = weight
    student.load_state_dict(weights)
    student.tie_weights()
    return TransformersModel(student.eval(), source.tokenizer, keep)


def _smaller(config: Any, keep: tuple[int, ...]) -> Any:
    """Copy a configuration for fewer layers: the count, and every list that has an entry for each layer."""
    smaller, layers = deepcopy(config), config.num_hidden_layers
    for name, value in vars(config).items():
        if isinstance(value, list) and len(value) == layers and name != "architectures":
            setattr(smaller, name, [value[layer] for layer in keep])
    smaller.num_hidden_layers = len(keep)
    smaller.dtype = torch.float32
    return smaller
