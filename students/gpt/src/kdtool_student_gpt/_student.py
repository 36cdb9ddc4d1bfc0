"""Students of transformers' Llama class that start from random weights: the base of all, and `gpt`.

`LlamaStudent` is everything except the shape; other student plugins subclass it. Light: torch and transformers load in
hooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool
import pydantic
from kdtool_transformers import CausalStudent
from kdtool_transformers.sizes import ParameterCount, uses_of

from kdtool_student_gpt._llama import LlamaShape, llama_config, solve

if TYPE_CHECKING:
    from kdtool_transformers import TransformersTokenizer


class LlamaStudentConfig(kdtool.Config):
    """Settings of every student that starts from random weights."""

    source: str = "teacher"
    """The component whose tokenizer it takes: a teacher's name in the recipe (`teacher`, or `teachers.NAME`)."""
    tokenizer: kdtool.RecipePathOrName | None = kdtool.Field(default=None, min_length=1)
    """A folder or Hub name whose tokenizer it takes instead. Losses on the teacher's tokens then require the same one."""


class LlamaStudent(CausalStudent):
    """A student of transformers' Llama class that starts from random weights, drawn from the run's seed.

    Subclasses define `shape`, and may override `context` and `is_tied`.
    """

    config: LlamaStudentConfig
    _or_own = ", or give tokenizer: a folder or Hub name"

    def __init__(self, config: LlamaStudentConfig) -> None:
        super().__init__(config)
        self._own_tokenizer: TransformersTokenizer | None = None
        self._said = False

    @property
    def context(self) -> int:
        """The greatest number of tokens that it is made for."""
        raise NotImplementedError

    @property
    def is_tied(self) -> bool:
        """True if head and embedding share their weights."""
        return True

    def shape(self, vocabulary: int) -> LlamaShape:
        """Return its sizes for a vocabulary, or raise a UsageError."""
        raise NotImplementedError

    def notes(self, run: kdtool.RunInfo, vocabulary: int) -> list[str]:
        """Return notes on the shape for the user."""
        return list(self.shape(vocabulary).notes(**uses_of(run)))

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self._tokenizer(run)

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_transformers import outline_of

        vocabulary = self._absent_vocabulary(run)
        if vocabulary is None:
            return self._build_without_values(run)
        shape = self.shape(vocabulary)
        self._say(run, shape, vocabulary)
        return outline_of(llama_config(shape, vocabulary, context=self.context, tied=self.is_tied))

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_torch import isolated_rng
        from kdtool_transformers import TransformersModel
        from transformers import LlamaForCausalLM

        tokenizer = self._tokenizer(run)
        shape = self.shape(tokenizer.vocabulary)
        config = llama_config(shape, tokenizer, context=self.context, tied=self.is_tied)
        self._say(run, shape, tokenizer.vocabulary)
        with isolated_rng(run.seed):
            model = LlamaForCausalLM(config)
        return TransformersModel(model.eval(), tokenizer)

    def _absent_vocabulary(self, run: kdtool.RunInfo) -> int | None:
        """Return the vocabulary size of a published tokenizer that is not on this machine; None if it is."""
        from kdtool_transformers import absent_config

        if self.config.tokenizer is not None:
            published = absent_config(self.config.tokenizer)
            return None if published is None else int(published["vocab_size"])
        if run.hook.owner(self.config.source) is None:
            return None
        facts = run.component(self.config.source, kdtool.Teacher).kdtool_describe(run)
        return facts.vocabulary if facts is not None and not facts.tokenizer_fingerprint else None

    def _say(self, run: kdtool.RunInfo, shape: LlamaShape, vocabulary: int) -> None:
        if not self._said:  # once, not for each seed
            self._said = True
            for line in (shape.sentence(vocabulary, self.is_tied), *self.notes(run, vocabulary)):
                run.say(f"student: {line}")

    def _tokenizer(self, run: kdtool.RunInfo) -> TransformersTokenizer:
        from kdtool_transformers import open_tokenizer

        if self.config.tokenizer is not None:
            if self._own_tokenizer is None:
                self._own_tokenizer = open_tokenizer(self.config.tokenizer, offline=run.offline)
            return self._own_tokenizer
        return self.tokenizer_of(run, self.config.source)


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
