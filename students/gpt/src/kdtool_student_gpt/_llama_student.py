"""A student of transformers' Llama class that starts from random weights: everything except its shape.

Student plugins subclass `LlamaStudent`. Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool
from kdtool_transformers import CausalStudent

from kdtool_student_gpt._kernels import uses_of
from kdtool_student_gpt._llama import LlamaShape, llama_config

if TYPE_CHECKING:
    from kdtool_transformers import TransformersTokenizer

__all__ = ["LlamaStudent", "LlamaStudentConfig"]


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
