"""Shapes of transformers' Llama class: counted, checked, found for a number of parameters, and made into configurations.

Why the Llama class: llama.cpp converts it with every kind of tokenizer that teachers have (its converter accepts GPT-2's
class only with byte-level BPE), transformers opens it with all of them (Qwen2's class requires its own tokenizer), its
positions need no parameters, and kernels support it.

`solve` uses heads 64 wide, a width of states that is a multiple of them, and feed-forward widths that are multiples of 64;
where multiples of 256 are within reach it takes those, because K-quants of GGUF need them. Light: only `llama_config` loads
transformers.
"""

from __future__ import annotations

from collections.abc import Iterator
from math import ceil, floor, log
from typing import TYPE_CHECKING, NamedTuple

import kdtool
from kdtool_transformers.sizes import (
    KERNEL_MULTIPLE,
    QUANT_MULTIPLE,
    TOLERANCE,
    best_shape,
    kernel_notes,
    readable_count,
)

if TYPE_CHECKING:
    from kdtool_transformers import TransformersTokenizer
    from transformers import LlamaConfig


class LlamaShape(NamedTuple):
    """Sizes of a Llama: `hidden` is the width of states, `feed_forward` that of the gated unit between its matrices."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    feed_forward: int

    def mistake(self) -> str | None:
        """Return why no model has these sizes, or None."""
        if self.hidden % self.heads or (self.hidden // self.heads) % 2:
            return (
                f"hidden {self.hidden} must be heads {self.heads} times an even number: rotary embeddings rotate pairs"
            )
        if self.heads % self.kv_heads:
            return (
                f"kv_heads {self.kv_heads} does not divide heads {self.heads}: each must serve the same number of heads"
            )
        return None

    def embedding_parameters(self, vocabulary: int, tied: bool) -> int:
        """Count the embedding, and the head if it is not the same matrix."""
        return vocabulary * self.hidden * (1 if tied else 2)

    def parameters(self, vocabulary: int, tied: bool) -> int:
        """Count all parameters."""
        kv_width = self.kv_heads * (self.hidden // self.heads)
        attention = 2 * self.hidden * (self.hidden + kv_width)
        layer = attention + 3 * self.hidden * self.feed_forward + 2 * self.hidden
        return self.embedding_parameters(vocabulary, tied) + self.layers * layer + self.hidden

    def sentence(self, vocabulary: int, tied: bool) -> str:
        """Return the shape in one line, with embeddings counted separately."""
        whole, words = self.parameters(vocabulary, tied), self.embedding_parameters(vocabulary, tied)
        heads = f"{kdtool.count_of(self.heads, 'head')} of {self.hidden // self.heads}"
        if self.kv_heads != self.heads:
            heads += f" on {kdtool.count_of(self.kv_heads, 'KV head')}"
        return (
            f"{whole:,} parameters, {words:,} of them ({words / whole:.0%}) {'tied ' if tied else ''}embeddings for "
            f"{vocabulary:,} tokens, {readable_count(whole - words)} in layers: {self.layers} × {self.hidden}, {heads}, "
            f"feed-forward {self.feed_forward:,}"
        )

    def notes(self, **uses: bool) -> Iterator[str]:
        """Return notes on widths that do not suit kernels or GGUF's K-quants; `uses` are those of `kernel_notes`."""
        rows = {"hidden": self.hidden, "feed_forward": self.feed_forward}
        return kernel_notes(rows, self.hidden // self.heads, **uses)


def llama_config(shape: LlamaShape, tokenizer: TransformersTokenizer | int, *, context: int, tied: bool) -> LlamaConfig:
    """Return the configuration of a Llama for a tokenizer, or for a missing one with this number of tokens; in float32.

    Raises:
        UsageError: no model has such a shape.
    """
    import transformers

    mistake = shape.mistake()
    if mistake is not None:
        raise kdtool.UsageError(mistake)
    here = None if isinstance(tokenizer, int) else tokenizer
    return transformers.LlamaConfig(
        vocab_size=tokenizer if isinstance(tokenizer, int) else tokenizer.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.feed_forward,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        bos_token_id=here.inner.bos_token_id if here else None,
        eos_token_id=here.end_of_text if here else None,
        pad_token_id=None,
    )


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
