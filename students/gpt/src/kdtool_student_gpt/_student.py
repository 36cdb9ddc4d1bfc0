"""The student `gpt` and its settings."""

from __future__ import annotations

import kdtool
import pydantic

from kdtool_student_gpt._counts import ParameterCount
from kdtool_student_gpt._llama import LlamaShape
from kdtool_student_gpt._llama_student import LlamaStudent, LlamaStudentConfig

__all__ = ["Gpt"]


_TIMES = (4.0, 3.0, 2.0, 1.5, 0.75, 0.5, 0.25)
"""Sizes that are proposed where another student is asked for."""


class Gpt(LlamaStudent):
    """A decoder from scratch, of transformers' Llama class, with a teacher's tokenizer."""

    class Config(LlamaStudentConfig):
        """Settings of the student `gpt`."""

        parameters: ParameterCount | None = None
        """Number of parameters, embeddings included: `125M`, `1.2B`, or a whole number. The shape is found, within
        2 %. Give this, or layers, hidden and heads."""
        layers: int | None = kdtool.Field(default=None, ge=1, le=1000)
        """Decoder layers."""
        hidden: int | None = kdtool.Field(default=None, ge=2, le=65536)
        """Width of the states between layers."""
        heads: int | None = kdtool.Field(default=None, ge=1, le=1024)
        """Attention heads, which share `hidden` evenly."""
        kv_heads: int | None = kdtool.Field(default=None, ge=1, le=1024)
        """Heads of keys and values (grouped-query attention); absent: as many as heads."""
        feed_forward: int | None = kdtool.Field(default=None, ge=1, le=262144)
        """Width of the gated feed-forward layer; absent: 8/3 of hidden, up to the next multiple of 256."""
        context: int = kdtool.Field(default=2048, ge=8, le=1_048_576)
        """Context length in tokens."""
        tied: bool = True
        """True: the head shares the embedding's weights. False: embeddings are counted twice."""

        @pydantic.model_validator(mode="after")
        def _one_way(self) -> Gpt.Config:
            given = [
                name
                for name in ("layers", "hidden", "heads", "kv_heads", "feed_forward")
                if getattr(self, name) is not None
            ]
            if self.parameters is not None:
                if given:
                    raise ValueError(f"parameters finds the shape: leave out {', '.join(given)}, or parameters")
                return self
            shape = self.explicit()
            if shape is None:
                raise ValueError("give parameters, or the shape: layers, hidden and heads")
            mistake = shape.mistake()
            if mistake is not None:
                raise ValueError(mistake)
            return self

        def explicit(self) -> LlamaShape | None:
            """Return the shape that the settings give, None where `parameters` determine it."""
            if self.layers is None or self.hidden is None or self.heads is None:
                return None
            return LlamaShape(
                layers=self.layers,
                hidden=self.hidden,
                heads=self.heads,
                kv_heads=self.kv_heads or self.heads,
                feed_forward=self.feed_forward or 256 * -(-8 * self.hidden // (3 * 256)),
            )

    config: Config

    @property
    def context(self) -> int:
        """The greatest number of tokens that it is made for."""
        return self.config.context

    @property
    def is_tied(self) -> bool:
        """Return whether the head is the embedding."""
        return self.config.tied

    def shape(self, vocabulary: int) -> LlamaShape:
        from kdtool_student_gpt._solve import solve

        if self.config.parameters is not None:
            return solve(self.config.parameters, vocabulary, self.config.tied)
        explicit = self.config.explicit()
        assert explicit is not None, "the configuration asks for one or the other"  # noqa: S101
        return explicit

    def others(self) -> list[dict[str, int]]:
        """Return other counts of parameters, if the settings give a count."""
        count = self.config.parameters
        return (
            []
            if count is None
            else [{"parameters": round(count * times / 10**6) * 10**6} for times in _TIMES if count > 10**7]
        )
