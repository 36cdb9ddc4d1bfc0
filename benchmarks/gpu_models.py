"""Sizes, models with random weights and rows of random tokens for the parts of `gpu.py`."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import NamedTuple

import kdtool
import torch
from jsd_head import HeadSizes
from kdtool_testing import ListSource
from kdtool_torch import pick_device
from kdtool_transformers import TransformersModel, byte_tokenizer


class Shape(NamedTuple):
    """Sizes of a Llama."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    feed_forward: int


class Sizes(NamedTuple):
    """All sizes of the benchmark; `heads` are those of `jsd_head.py`, with numbers of tokens, for `rounds` rounds each."""

    teacher: Shape
    student: Shape
    vocabulary: int
    length: int
    batch: int
    steps: int
    texts: int
    new_tokens: int
    heads: tuple[tuple[HeadSizes, int], ...]
    rounds: int


FULL = Sizes(
    Shape(2048, 24, 32, 32, 8192), Shape(960, 32, 15, 5, 2560), vocabulary=49_152, length=2048, batch=8, steps=12,
    texts=64, new_tokens=128, rounds=20, heads=tuple(
        (HeadSizes(2048, 4096, size), tokens) for size, tokens in ((128_256, 1024), (151_665, 1024), (128_256, 8192))
    ),
)  # fmt: skip
"""Vocabularies of heads are those of Llama 3 and Qwen2.5, which is odd: rows of its logits are not aligned."""
TINY = Sizes(
    Shape(64, 2, 4, 2, 128), Shape(32, 2, 4, 2, 64), vocabulary=512, length=64, batch=2, steps=4,
    texts=2, new_tokens=4, rounds=2, heads=((HeadSizes(32, 64, 512), 64),),
)  # fmt: skip


class Model(TransformersModel):
    """A model that uses all rows of its head, whatever its tokenizer has."""

    @property
    def head(self) -> kdtool.Head:
        """The head."""
        return replace(super().head, vocabulary=self.model.config.vocab_size)


def make_model(shape: Shape, sizes: Sizes, dtype: torch.dtype) -> Model:
    """Return a model with random weights on the device."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes.vocabulary, hidden_size=shape.hidden, num_hidden_layers=shape.layers, eos_token_id=None,
        num_attention_heads=shape.heads, num_key_value_heads=shape.kv_heads, intermediate_size=shape.feed_forward,
        max_position_embeddings=4096, tie_word_embeddings=True, bos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    with torch.device(pick_device()):
        return Model(LlamaForCausalLM(config).to(dtype), byte_tokenizer())


def make_rows(sizes: Sizes, count: int, documents: int = 4) -> ListSource:
    """Return rows of some documents each, every token but their first labelled."""
    rng, length = random.Random(0), sizes.length
    document = [index * documents // length for index in range(length)]
    return ListSource(
        [
            kdtool.Row(str(n), [rng.randrange(sizes.vocabulary) for _ in range(length)], [True] * length, document)
            for n in range(count)
        ]
    )
