"""Student plugin `smallcoder`: SmallCoder's exact shape, and smaller ones of its proportions.

`SmallCoder` is the student; everything except the shapes is `kdtool_student_gpt.LlamaStudent`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import kdtool
from kdtool_student_gpt import LlamaShape, LlamaStudent, LlamaStudentConfig
from kdtool_transformers.sizes import ParameterCount

__all__ = ["SHAPES", "VOCABULARY", "SmallCoder"]

VOCABULARY = 32_000
"""The number of tokens to which the names of the shapes refer."""

SHAPES: Mapping[str, LlamaShape] = {
    "303m": LlamaShape(layers=18, hidden=1152, heads=16, kv_heads=4, feed_forward=3328),
    "106m": LlamaShape(layers=12, hidden=768, heads=12, kv_heads=3, feed_forward=2304),
    "40m": LlamaShape(layers=8, hidden=512, heads=8, kv_heads=2, feed_forward=1536),
    "11m": LlamaShape(layers=4, hidden=256, heads=4, kv_heads=1, feed_forward=768),
}
"""SmallCoder, and relatives: four heads to one of keys and values, 64 of width to a layer, three widths of feed-forward."""


class SmallCoder(LlamaStudent):
    """SmallCoder from scratch: 303,654,528 parameters of transformers' Llama class with a tokenizer of 32,000 tokens."""

    class Config(LlamaStudentConfig):
        """Settings of the student `smallcoder`."""

        size: Literal["303m", "106m", "40m", "11m"] = "303m"
        """Shape, named by its number of parameters with 32,000 tokens. `303m` is SmallCoder itself."""
        parameters: ParameterCount | None = None
        """Exact number of parameters, or the run is refused; absent: any number that shape and tokenizer give."""
        context: int = kdtool.Field(default=4096, ge=8, le=1_048_576)
        """Context length in tokens."""

    config: Config

    @property
    def context(self) -> int:
        """The greatest number of tokens that it is made for."""
        return self.config.context

    def shape(self, vocabulary: int) -> LlamaShape:
        shape = SHAPES[self.config.size]
        count, wanted = shape.parameters(vocabulary, tied=True), self.config.parameters
        if wanted is not None and count != wanted:
            named = shape.parameters(VOCABULARY, tied=True)
            raise kdtool.UsageError(
                f"parameters: size {self.config.size} has {named:,} with {VOCABULARY:,} tokens, but the tokenizer has "
                f"{vocabulary:,}, which makes {count:,} and not {wanted:,}; take a teacher or tokenizer that fits, another "
                "size, or leave parameters out",
                {"parameters": None},
            )
        return shape

    def notes(self, run: kdtool.RunInfo, vocabulary: int) -> list[str]:
        """Return what the user must know of the shape, such as its difference from the size in its name."""
        notes = super().notes(run, vocabulary)
        if vocabulary != VOCABULARY:
            shape = SHAPES[self.config.size]
            here, named = (shape.parameters(tokens, tied=True) for tokens in (vocabulary, VOCABULARY))
            notes.insert(
                0,
                f"the tokenizer has {vocabulary:,} tokens, not {VOCABULARY:,}: {here:,} parameters instead of {named:,} "
                f"({here / named - 1:+.1%}), all of the difference in the embedding",
            )
        return notes

    def others(self) -> list[dict[str, str]]:
        """Return the other sizes, unless the settings give an exact count."""
        exact = self.config.parameters is not None
        return [] if exact else [{"size": size} for size in SHAPES if size != self.config.size]
