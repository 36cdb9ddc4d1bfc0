"""The shape that a recipe asks for, compared with its source's; and notes on that shape.

`wanted_shape` is called by `Pruned` before any weights load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import kdtool
from kdtool_student_gpt import kernel_notes, readable_count

from kdtool_student_pruned._anatomy import CLASSES, Anatomy
from kdtool_student_pruned._shape import Shape
from kdtool_student_pruned._solve import solve

if TYPE_CHECKING:
    from kdtool_student_pruned._config import PrunedConfig

__all__ = ["sentence", "shape_notes", "wanted_shape"]


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
    heads, kv_heads = _heads(config, whole)
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


def _heads(config: PrunedConfig, whole: Shape) -> tuple[int, int]:
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
