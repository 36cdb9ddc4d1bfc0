"""Finds how far to cut a source for a wanted number of parameters, under what kernels and quantised formats like.

`solve` is called by `Pruned`. Heads keep their size and leave with their KV heads or from all groups alike; widths are
multiples of 64, and of 256 where that is within reach, because K-quants of GGUF ask for it. Proportions stay near the
source's, and width goes before depth (Muralidharan et al., Minitron, arXiv 2407.14679, best practice 3).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from math import ceil, floor, log

import kdtool
from kdtool_student_gpt import KERNEL_MULTIPLE, QUANT_MULTIPLE, TOLERANCE, best_shape, readable_count

from kdtool_student_pruned._anatomy import Anatomy
from kdtool_student_pruned._shape import Shape

__all__ = ["shapes", "solve"]

WIDE = 1024
"""From this width on only multiples of 256 are looked at, and the source's own."""
ATTENTION_RATIO = 1.5
"""Largest factor by which the width of all heads may leave the source's proportion to the hidden size, up and down."""
FEED_FORWARD_RATIO = 2.0
"""Largest factor for the width of feed-forward layers, likewise."""
DEPTH = 1 / 3
"""Cut in depth as a share of the cut in width, in logarithms."""
LEAST_LAYERS = 2


def solve(wanted: int, source: Anatomy, name: str) -> Shape:
    """Return the best shape within two per cent of `wanted` parameters, embeddings counted.

    Args:
        wanted: parameters.
        source: what is cut.
        name: the source's name in the recipe, for messages.

    Raises:
        UsageError: no such shape exists; the message holds the reason and the nearest count that exists.
    """
    whole = source.parameters(source.shape)
    if wanted > whole * (1 + TOLERANCE):
        raise kdtool.UsageError(
            f"parameters: {wanted:,} are more than the {whole:,} of {name}, and cutting only takes away: give fewer, or a "
            "larger source"
        )
    shape, fits = best_shape(wanted, partial(shapes, source=source), source.parameters, partial(_cost, source=source))
    if not fits:
        raise kdtool.UsageError(_refusal(wanted, shape, source, name))
    return shape


def shapes(bounds: tuple[float, float], source: Anatomy) -> Iterator[Shape]:
    """Yield all shapes that the source can be cut to whose count lies within `bounds`, the same in every process."""
    low, high = bounds
    whole = source.shape
    for hidden in _widths(1, whole.hidden, whole.hidden):
        ratio = whole.feed_forward * hidden / whole.hidden
        for heads, kv_heads in _heads(source, hidden):
            outside = source.parameters(Shape(0, hidden, heads, kv_heads, 0))
            bare = source.parameters(Shape(1, hidden, heads, kv_heads, 0)) - outside
            unit = source.parameters(Shape(1, hidden, heads, kv_heads, 1)) - outside - bare
            for layers in range(min(LEAST_LAYERS, whole.layers), whole.layers + 1):
                first = max(((low - outside) / layers - bare) / unit, ratio / FEED_FORWARD_RATIO)
                last = min(((high - outside) / layers - bare) / unit, ratio * FEED_FORWARD_RATIO)
                for width in _widths(ceil(first), floor(last), whole.feed_forward):
                    yield Shape(layers, hidden, heads, kv_heads, width)


def _widths(first: int, last: int, own: int) -> Iterator[int]:
    """Yield widths from first to last, at most the source's own: multiples of 64, wide ones of 256, and its own."""
    last = min(last, own)
    for step, low, high in (
        (KERNEL_MULTIPLE, max(first, 1), min(last, WIDE - 1)),
        (QUANT_MULTIPLE, max(first, WIDE), last),
    ):
        yield from (width for width in range(step * ceil(low / step), high + 1, step) if width != own)
    if first <= own <= last:
        yield own


def _heads(source: Anatomy, hidden: int) -> Iterator[tuple[int, int]]:
    """Yield how many heads and KV heads go with a width: some of the KV heads, and of each as many of its heads."""
    whole = source.shape
    usual = whole.heads * hidden / whole.hidden
    for kv_heads in range(1, whole.kv_heads + 1):
        for group in range(1, whole.heads // whole.kv_heads + 1):
            heads = kv_heads * group
            if source.heads_fill_hidden and heads * source.head_size != hidden:
                continue
            if not source.can_open(hidden, heads):
                continue
            if usual / ATTENTION_RATIO <= heads <= usual * ATTENTION_RATIO:
                yield heads, kv_heads


def _cost(shape: Shape, source: Anatomy) -> float:
    """Weigh how far a shape leaves its source's proportions.

    Doubling one costs 0.7, a width that K-quants do not like as much or half.
    """
    whole = source.shape
    narrower = log(whole.hidden / shape.hidden)
    return (
        abs(log(whole.layers / shape.layers) - DEPTH * narrower)
        + abs(log(whole.feed_forward / shape.feed_forward) - narrower)
        + abs(log(whole.heads / shape.heads) - narrower)
        + 0.2 * abs(log(whole.heads / whole.kv_heads) - log(shape.heads / shape.kv_heads))
        + 0.7 * (shape.hidden % QUANT_MULTIPLE != 0)
        + 0.35 * (shape.feed_forward % QUANT_MULTIPLE != 0)
        + 0.35 * (shape.heads * source.head_size % QUANT_MULTIPLE != 0)
    )


def _refusal(wanted: int, nearest: Shape, source: Anatomy, name: str) -> str:
    count, words = source.parameters(nearest), source.embedding_parameters(nearest)
    return (
        f"parameters: {name} can be cut to no usual proportions within {TOLERANCE:.0%} of {wanted:,}: the embeddings of its "
        f"{source.rows:,} tokens take {readable_count(words)} at width {nearest.hidden}, heads keep their size of "
        f"{source.head_size}, and widths go by {KERNEL_MULTIPLE}. The nearest is parameters: {count} ({nearest}); or give "
        "layers, hidden, heads, kv_heads and feed_forward yourself"
    )
