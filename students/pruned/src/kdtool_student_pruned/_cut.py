"""Chooses the layers, channels, heads and neurons of a model that stay, and builds the model that has only these.

`choose` decides by importance, `Kept` names the units that stay, and `cut` builds the student. Weights are copied unchanged,
except for one factor: norms take the mean square over fewer channels. Their gains compensate for that, so leaving out
channels that are always zero changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import kdtool
import torch
from kdtool_torch import isolated_rng
from kdtool_transformers import TransformersModel, decoder_layers, no_progress_bar
from torch import Tensor

from kdtool_student_pruned._anatomy import Anatomy, Shape, axes_of, smaller_config
from kdtool_student_pruned._importance import Importance


def choose(importance: Importance, layers: tuple[int, ...], shape: Shape, source: Anatomy) -> Kept:
    """Return what stays: given layers, and of each axis that the shape makes smaller the most important units."""
    whole = source.shape
    hidden = heads = kv_heads = feed_forward = None
    if shape.hidden < whole.hidden:
        read = {name: share for name, share in importance.channels.items() if _layer_of(name) in (None, *layers)}
        hidden = _top(sum(read.values(), start=importance.layers.new_zeros(())), shape.hidden)
    if (shape.heads, shape.kv_heads) != (whole.heads, whole.kv_heads):
        chosen = [grouped_heads(importance.heads[layer], whole, shape) for layer in layers]
        heads, kv_heads = (tuple(part) for part in zip(*chosen, strict=True))
    if shape.feed_forward < whole.feed_forward:
        feed_forward = tuple(_top(importance.feed_forward[layer], shape.feed_forward) for layer in layers)
    return Kept(layers, hidden, heads, kv_heads, feed_forward)


def grouped_heads(importance: Tensor, whole: Shape, shape: Shape) -> tuple[Tensor, Tensor]:
    """Choose heads of a layer together with the KV heads that they share: of each group as many, then the best groups.

    Args:
        importance: of its heads.
        whole: the source's shape.
        shape: the shape that is wanted.

    Returns:
        The heads and the KV heads that stay.
    """
    group, keep = whole.heads // whole.kv_heads, shape.heads // shape.kv_heads
    groups = importance.view(whole.kv_heads, group)
    best = groups.topk(keep, dim=1)
    kv_heads = _top(best.values.sum(1), shape.kv_heads)
    heads = best.indices.sort(dim=1).values[kv_heads] + kv_heads[:, None] * group
    return heads.flatten(), kv_heads


def most_important(importance: Sequence[float], count: int) -> tuple[int, ...]:
    """Return the `count` units of greatest importance, ascending; of equals the earlier."""
    ranked = sorted(range(len(importance)), key=lambda unit: -importance[unit])
    return tuple(sorted(ranked[:count]))


def _top(importance: Tensor, count: int) -> Tensor:
    return importance.sort(descending=True, stable=True).indices[:count].sort().values


def _layer_of(norm: str) -> int | None:
    """Return the number of the layer that a norm is part of, None for the last one."""
    numbers = [part for part in norm.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else None


@dataclass(frozen=True)
class Kept:
    """Units of a source that stay, in ascending order.

    `hidden` are channels of the states between layers. `heads`, `kv_heads` and `feed_forward` name for each layer of
    `layers` its heads, KV heads and neurons. None: all of them.
    """

    layers: tuple[int, ...]
    hidden: Tensor | None = None
    heads: tuple[Tensor, ...] | None = None
    kv_heads: tuple[Tensor, ...] | None = None
    feed_forward: tuple[Tensor, ...] | None = None

    @property
    def cuts_width(self) -> bool:
        """Return whether anything is left out besides layers."""
        return any(units is not None for units in (self.hidden, self.heads, self.kv_heads, self.feed_forward))

    def index(self, axis: str, layer: int | None, head_size: int) -> Tensor | None:
        """Return which values along an axis stay in a layer of the student, by its index (None: outside of layers)."""
        if axis == "hidden":
            return self.hidden
        units = getattr(self, axis) if axis in ("heads", "kv_heads", "feed_forward") else None
        if units is None or layer is None:
            return None
        chosen: Tensor = units[layer]
        if axis == "feed_forward":
            return chosen
        return (chosen[:, None] * head_size + torch.arange(head_size)).flatten()


def cut(source: TransformersModel, kept: Kept, context: int | None = None) -> TransformersModel:
    """Return a new model in float32 with the kept parts of `source`, which is left as it is, for `context` tokens.

    Raises:
        UsageError: the source stores its weights in few bits.
    """
    causal = source.model
    if not all(weight.is_floating_point() for weight in causal.parameters()):
        raise kdtool.UsageError("source: its weights are stored in few bits; set a source without `quantise`")
    config, shape = causal.config, None
    if kept.cuts_width:
        shape = _shape_of(config, kept)
    layers = decoder_layers(causal)
    path = next(name for name, module in causal.named_modules() if module is layers)
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    new_indices = {layer: index for index, layer in enumerate(kept.layers)}
    weights = {}
    for name, weight in causal.state_dict().items():
        index, new_name = None, name
        if name.startswith(f"{path}."):
            number, _, rest = name.removeprefix(f"{path}.").partition(".")
            index = new_indices.get(int(number))
            if index is None:
                continue
            new_name = f"{path}.{index}.{rest}"
        part = _kept_part(name, weight, kept, index, head_size) if kept.cuts_width else weight
        weights[new_name] = part.to(torch.float32, copy=True)
    # Not by its constructor: that draws as many random weights first.
    with isolated_rng(), no_progress_bar():
        student, loaded = type(causal).from_pretrained(
            None,
            config=smaller_config(config, kept.layers, shape, context),
            state_dict=weights,
            dtype=torch.float32,
            output_loading_info=True,
        )
    assert not any(loaded[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))  # noqa: S101
    return TransformersModel(student.eval(), source.tokenizer, kept.layers)


def _shape_of(config: Any, kept: Kept) -> Shape:
    def count(units: tuple[Tensor, ...] | None, all_of_them: int) -> int:
        return all_of_them if units is None else len(units[0])

    return Shape(
        layers=len(kept.layers),
        hidden=config.hidden_size if kept.hidden is None else len(kept.hidden),
        heads=count(kept.heads, config.num_attention_heads),
        kv_heads=count(kept.kv_heads, config.num_key_value_heads),
        feed_forward=count(kept.feed_forward, config.intermediate_size),
    )


def _kept_part(name: str, weight: Tensor, kept: Kept, layer: int | None, head_size: int) -> Tensor:
    part, axes = weight, axes_of(name)
    for dimension, axis in enumerate(axes):
        chosen = kept.index(axis, layer, head_size)
        if chosen is not None:
            part = part.index_select(dimension, chosen.to(part.device))
    if name.endswith("norm.weight") and kept.hidden is not None:
        return part.float() * sqrt(len(weight) / len(part))
    return part
