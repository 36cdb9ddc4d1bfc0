"""Finds the shape of a Llama that has a wanted number of parameters, under what kernels and quantised formats like.

`solve` is called by `Gpt`. Heads are 64 wide, the width of states is a multiple of them, and that of feed-forward layers
one of 64; where multiples of 256 are within reach, those are taken, because K-quants of GGUF ask for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from math import ceil, floor, log

import kdtool

from kdtool_student_gpt._counts import readable_count
from kdtool_student_gpt._kernels import KERNEL_MULTIPLE, QUANT_MULTIPLE
from kdtool_student_gpt._llama import LlamaShape
from kdtool_student_gpt._shape_search import TOLERANCE, best_shape

__all__ = ["solve"]

HEAD, STEP, QUANT_STEP = 64, KERNEL_MULTIPLE, QUANT_MULTIPLE
WIDE = 1024
"""From this width on there is always a fitting shape of multiples of 256, so that no others are looked at."""
WIDTH_PER_LAYER = (8, 256)
"""Least and greatest width of states for each layer; 64 is what GPT-2 and its successors have."""
FEED_FORWARD_RATIO = (2, 4)
"""Least and greatest width of a feed-forward layer, in widths of states; 8/3 is Llama's."""
GROUPS = (1, 2, 3, 4)
"""Numbers of heads that may share keys and values."""
LEAST_LAYERS = 2


@lru_cache(maxsize=64)
def solve(wanted: int, vocabulary: int, tied: bool) -> LlamaShape:
    """Return the best shape within two per cent of `wanted` parameters, embeddings counted.

    Raises:
        UsageError: no such shape exists; the message holds the reason and the nearest count that exists.
    """
    shape, fits = best_shape(
        wanted,
        lambda bounds: _shapes(bounds, vocabulary, tied),
        lambda shape: shape.parameters(vocabulary, tied),
        _cost,
    )
    if not fits:
        raise kdtool.UsageError(_refusal(shape, wanted, vocabulary, tied))
    return shape


def _cost(shape: LlamaShape) -> float:
    """Weigh how unusual a shape is: doubling a proportion costs 0.7, a width that K-quants do not like as much or half."""
    return (
        abs(log(shape.hidden / shape.layers / 64))
        + abs(log(shape.feed_forward / shape.hidden / (8 / 3)))
        + 0.2 * log(shape.heads / shape.kv_heads)
        + 0.7 * (shape.hidden % QUANT_STEP != 0)
        + 0.35 * (shape.feed_forward % QUANT_STEP != 0)
    )


def _shapes(bounds: tuple[float, float], vocabulary: int, tied: bool) -> Iterator[LlamaShape]:
    """Yield all shapes of usual proportions whose count lies within `bounds`, the same in every process."""
    low, high = bounds
    hidden = HEAD
    while LlamaShape(0, hidden, 1, 1, 0).parameters(vocabulary, tied) < high:
        for layers in _depths(hidden, bounds, vocabulary, tied):
            for kv_heads in _kv_heads(hidden // HEAD):
                bare = LlamaShape(layers, hidden, hidden // HEAD, kv_heads, 0)
                free, unit = bare.parameters(vocabulary, tied), 3 * hidden * layers
                first = max((low - free) / unit, FEED_FORWARD_RATIO[0] * hidden)
                last = min((high - free) / unit, FEED_FORWARD_RATIO[1] * hidden)
                step = STEP if hidden < WIDE else QUANT_STEP
                for width in range(step * ceil(first / step), step * floor(last / step) + 1, step):
                    yield bare._replace(feed_forward=width)
        hidden += HEAD if hidden < WIDE else QUANT_STEP


def _depths(hidden: int, bounds: tuple[float, float], vocabulary: int, tied: bool) -> range:
    """Return the numbers of layers at which a width can be within `bounds` at all."""
    heads = hidden // HEAD
    outside = LlamaShape(0, hidden, heads, heads, 0).parameters(vocabulary, tied)
    least, greatest = (
        LlamaShape(1, hidden, heads, kv_heads, ratio * hidden).parameters(vocabulary, tied) - outside
        for kv_heads, ratio in zip((min(_kv_heads(heads)), heads), FEED_FORWARD_RATIO, strict=True)
    )
    first = max(LEAST_LAYERS, ceil(hidden / WIDTH_PER_LAYER[1]), ceil((bounds[0] - outside) / greatest))
    last = min(floor(hidden / WIDTH_PER_LAYER[0]), floor((bounds[1] - outside) / least))
    return range(first, last + 1)


def _kv_heads(heads: int) -> list[int]:
    return [heads // group for group in GROUPS if heads % group == 0]


def _refusal(nearest: LlamaShape, wanted: int, vocabulary: int, tied: bool) -> str:
    count = nearest.parameters(vocabulary, tied)
    sizes = []
    for hidden in (nearest.hidden, nearest.hidden + HEAD):
        embedding = LlamaShape(0, hidden, 1, 1, 0).embedding_parameters(vocabulary, tied)
        sizes.append(f"{readable_count(embedding)} at width {hidden}")
    return (
        f"parameters: no shape of usual proportions is within {TOLERANCE:.0%} of {wanted:,}: embeddings for "
        f"{vocabulary:,} tokens take {' and '.join(sizes)}, and widths go by {HEAD}. The nearest is parameters: {count} "
        f"({nearest.layers} layers, hidden {nearest.hidden}); or give layers, hidden and heads yourself"
    )
