"""Shapes of transformers' Llama class: counted, judged and made configurations, before there is a model.

Used by students that start from random weights. Light: only `llama_config` loads transformers.

Why the Llama class: llama.cpp converts it with every kind of tokenizer that teachers have (its converter accepts GPT-2's
class only with byte-level BPE), transformers opens it with all of them (Qwen2's class requires its own tokenizer), its
positions need no parameters, and kernels support it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

import kdtool

from kdtool_student_gpt._counts import readable_count
from kdtool_student_gpt._kernels import kernel_notes

if TYPE_CHECKING:
    from kdtool_transformers import TransformersTokenizer
    from transformers import LlamaConfig

__all__ = ["LlamaShape", "llama_config"]


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
        heads = f"{_count(self.heads, 'head')} of {self.hidden // self.heads}"
        if self.kv_heads != self.heads:
            heads += f" on {_count(self.kv_heads, 'KV head')}"
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


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
