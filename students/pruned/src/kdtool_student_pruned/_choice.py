"""Choice of the units that stay for a shape, by their importance. Called by `Pruned`."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from kdtool_student_pruned._anatomy import Anatomy
from kdtool_student_pruned._cut import Kept
from kdtool_student_pruned._importance import Importance
from kdtool_student_pruned._shape import Shape

__all__ = ["choose", "grouped_heads", "most_important", "uniform"]


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


def uniform(layers: int, count: int) -> tuple[int, ...]:
    """Return `count` evenly spaced layers, first and last included (only the first if one stays)."""
    if count == 1:
        return (0,)
    return tuple(round(number * (layers - 1) / (count - 1)) for number in range(count))


def _top(importance: Tensor, count: int) -> Tensor:
    return importance.sort(descending=True, stable=True).indices[:count].sort().values


def _layer_of(norm: str) -> int | None:
    """Return the number of the layer that a norm is part of, None for the last one."""
    numbers = [part for part in norm.split(".") if part.isdigit()]
    return int(numbers[0]) if numbers else None
