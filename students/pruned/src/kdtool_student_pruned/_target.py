"""The shape that a recipe asks for: checked against its source, or found for a number of parameters; and notes on it.

`wanted_shape` is called before any weights load. `solve` keeps to widths that kernels and quantised formats like: heads keep
their size, and each width is a multiple of 64, wide ones of 256, or the source's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from math import ceil, floor, log

import kdtool
from kdtool_transformers.sizes import (
    KERNEL_MULTIPLE,
    QUANT_MULTIPLE,
    TOLERANCE,
    best_shape,
    kernel_notes,
    readable_count,
)

from kdtool_student_pruned._anatomy import CLASSES, Anatomy, Shape
from kdtool_student_pruned._config import PrunedConfig


def wanted_shape(config: PrunedConfig, source: Anatomy) -> Shape:
    """Return the shape that the settings ask of a source; what they leave out stays as it is.

    Raises:
        UsageError: the source is too small, its class cannot be cut so, or no such model exists; the message lists all
        faults.
    """
    name, whole = config.source, source.shape
    if config.width_keys and source.model_type not in CLASSES:
        raise kdtool.UsageError(
            f"{', '.join(config.width_keys)}: {name} is of class {source.model_type}, and widths are cut of "
            f"{', '.join(CLASSES.values())}: set only layers or keep, or another source"
        )
    if config.parameters is not None:
        return solve(config.parameters, source, name)
    heads, kv_heads = _requested_heads(config, whole)
    shape = Shape(
        layers=config.count or whole.layers,
        hidden=config.hidden or whole.hidden,
        heads=heads,
        kv_heads=kv_heads,
        feed_forward=config.feed_forward or whole.feed_forward,
    )
    mistakes = [
        *_too_large(config, whole),
        *_wrong_heads(config, shape, whole),
        *_unknown_to_transformers(shape, source),
    ]
    if mistakes:
        raise kdtool.UsageError("; ".join(mistakes))
    return shape


def sentence(shape: Shape, source: Anatomy, name: str) -> str:
    """Return a line on the parts of the source that stay, with embeddings counted separately."""
    count, words, whole = source.parameters(shape), source.embedding_parameters(shape), source.parameters(source.shape)
    return (
        f"{count:,} parameters, {count / whole:.1%} of the {readable_count(whole)} of {name}, {words:,} of them embeddings: "
        f"{shape}; it has {source.shape}"
    )


def shape_notes(shape: Shape, source: Anatomy, uses: Mapping[str, bool]) -> Iterator[str]:
    """Yield warnings about a shape for kernels, K-quants and llama.cpp; `uses` are those of `kernel_notes`."""
    attention = shape.heads * source.head_size
    rows = {"hidden": shape.hidden, "feed_forward": shape.feed_forward}
    if attention != shape.hidden:
        rows["attention width"] = attention
    yield from kernel_notes(rows, source.head_size, **uses)
    if source.heads_fill_hidden and attention != shape.hidden:
        fitting = f"heads: {shape.hidden // source.head_size}" if shape.hidden % source.head_size == 0 else ""
        fitting = fitting or f"hidden: {attention}"
        yield (
            f"{shape.heads} heads of {source.head_size} are {attention} wide and hidden is {shape.hidden}: llama.cpp opens "
            f"{CLASSES[source.model_type]} only if they are equal, so GGUF export is impossible; {fitting} would do"
        )


def _requested_heads(config: PrunedConfig, whole: Shape) -> tuple[int, int]:
    """Return heads and KV heads; if only one of both is set, heads leave together with their KV head."""
    group = whole.heads // whole.kv_heads
    if config.heads is None:
        kv_heads = config.kv_heads or whole.kv_heads
        return kv_heads * group, kv_heads
    if config.kv_heads is not None:
        return config.heads, config.kv_heads
    return config.heads, max(1, config.heads // group)


def _too_large(config: PrunedConfig, whole: Shape) -> Iterator[str]:
    name = config.source
    if config.keep and config.keep[-1] >= whole.layers:
        yield f"keep: {list(config.keep)} asks for more than {name} has: {whole.layers} layers, 0 to {whole.layers - 1}"
    for key, given, there in (
        ("layers", config.layers, whole.layers),
        ("hidden", config.hidden, whole.hidden),
        ("heads", config.heads, whole.heads),
        ("kv_heads", config.kv_heads, whole.kv_heads),
        ("feed_forward", config.feed_forward, whole.feed_forward),
    ):
        if given is not None and given > there:
            yield f"{key}: {given} asks for more than {name} has: {there}; cutting only takes away, so give at most {there}"


def _unknown_to_transformers(shape: Shape, source: Anatomy) -> Iterator[str]:
    if not source.can_open(shape.hidden, shape.heads):
        below = shape.hidden // shape.heads * shape.heads
        fitting = " or ".join(str(width) for width in (below, below + shape.heads) if 0 < width <= source.shape.hidden)
        yield (
            f"hidden: {shape.hidden} is not a multiple of the {shape.heads} heads, which transformers demands of "
            f"{CLASSES[source.model_type]}; give {f'hidden: {fitting}, or ' if fitting else ''}other heads"
        )


def _wrong_heads(config: PrunedConfig, shape: Shape, whole: Shape) -> Iterator[str]:
    name, group = config.source, whole.heads // whole.kv_heads
    if config.heads is not None and config.kv_heads is None and config.heads % group:
        below = config.heads // group * group
        fitting = f"heads: {below or group} or {below + group}" if below else f"heads: {group}"
        yield (
            f"heads: {config.heads} does not go into KV groups: in {name} {group} heads share a KV head, and they leave "
            f"together; give {fitting}, or kv_heads, too"
        )
    elif shape.heads <= whole.heads and shape.kv_heads <= whole.kv_heads and shape.heads > shape.kv_heads * group:
        yield (
            f"heads: {shape.heads} on kv_heads: {shape.kv_heads} are {shape.heads // shape.kv_heads} to a KV head, but in "
            f"{name} only {group} share one; give at most heads: {shape.kv_heads * group}, or more kv_heads"
        )


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
            "larger source",
            {"parameters": whole // 2},
        )
    shape, fits = best_shape(wanted, partial(shapes, source=source), source.parameters, partial(_cost, source=source))
    if not fits:
        raise kdtool.UsageError(_refusal(wanted, shape, source, name), {"parameters": source.parameters(shape)})
    return shape


def shapes(bounds: tuple[float, float], source: Anatomy) -> Iterator[Shape]:
    """Yield all shapes that the source can be cut to whose count lies within `bounds`, the same in every process."""
    low, high = bounds
    whole = source.shape
    for hidden in _widths(1, whole.hidden, whole.hidden):
        ratio = whole.feed_forward * hidden / whole.hidden
        for heads, kv_heads in _heads_for_width(source, hidden):
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


def _heads_for_width(source: Anatomy, hidden: int) -> Iterator[tuple[int, int]]:
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
