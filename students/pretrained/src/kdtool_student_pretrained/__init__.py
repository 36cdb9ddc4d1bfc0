"""Student plugin `pretrained`: any causal language model of transformers continues learning.

`Pretrained` is the student; `kdtool_transformers` finds its weights and their licence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import kdtool
from kdtool_transformers import CausalStudent, Source

__all__ = ["Pretrained"]


class Pretrained(CausalStudent):
    """A causal language model from a folder, from the Hub, or from a GGUF file, with its own tokenizer."""

    uses_seed = False
    pretrained = True

    class Config(kdtool.Config):
        """Settings of the student `pretrained`."""

        model: kdtool.RecipePathOrName = kdtool.Field(min_length=1)
        """A folder with config.json and safetensors, a Hub name (owner/name), or the path of a .gguf file."""
        revision: str | None = None
        """Branch, tag or commit of a Hub name. None: the newest. The run records the commit."""
        dtype: Literal["auto", "float32"] = "auto"
        """Dtype of frozen weights, such as those under adapters. `auto`: as they are stored."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._source: Source | None = None
        self._tokenizer: kdtool.Tokenizer | None = None

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        from kdtool_transformers import open_tokenizer

        if self._tokenizer is None:
            location, revision = self._find_weights(run)
            self._tokenizer = open_tokenizer(location, revision=revision, offline=run.offline)
        return self._tokenizer

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        from kdtool_transformers import source_identity

        weights = source_identity(self._find_weights(run), offline=run.offline)
        return {"weights": weights, **super().kdtool_identity(run)}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        import torch
        from kdtool_transformers import TransformersTokenizer, absent_config, open_config, outline_of

        facts = self._facts(run)
        published = absent_config(self.config.model, self.config.revision)
        if published is not None:
            outline = outline_of(published)
        else:
            location, revision = self._find_weights(run)
            tokenizer = self.kdtool_tokenizer(run)
            assert isinstance(tokenizer, TransformersTokenizer)  # noqa: S101
            outline = outline_of(open_config(location, revision=revision, offline=run.offline), tokenizer)
        outline.copied_layers = facts.copied_layers
        outline.model.to(getattr(torch, facts.dtype))
        return outline

    def _facts(self, run: kdtool.RunInfo) -> kdtool.ModelFacts:
        from kdtool_transformers import TransformersTokenizer, absent_config, absent_facts, open_facts

        published = absent_config(self.config.model, self.config.revision)
        if published is not None:
            return self._in_dtype(absent_facts(published))
        location, revision = self._find_weights(run)
        tokenizer = self.kdtool_tokenizer(run)
        assert isinstance(tokenizer, TransformersTokenizer)  # noqa: S101
        self._refuse_quantised(run)
        return self._in_dtype(open_facts(location, tokenizer, revision=revision, offline=run.offline))

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_transformers import download_estimates

        yield from super().kdtool_estimate(run, ahead)
        facts = ahead.models.get(ahead.student)
        yield from download_estimates(self.config.model, self.config.revision, 0 if facts is None else facts.parameters)

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        import torch
        from kdtool_transformers import open_model

        location, revision = self._find_weights(run)
        self._refuse_quantised(run)
        dtype: torch.dtype = getattr(torch, self._facts(run).dtype)
        student = open_model(location, dtype=dtype, revision=revision, offline=run.offline)
        student.built_from = str(Path(location).resolve()) if Path(location).is_dir() else str(location)
        return student

    @property
    def licence_terms(self) -> kdtool.LicenceTerms | None:
        from kdtool_model_card import terms_of

        return terms_of(self.config.model)

    def _in_dtype(self, stored: kdtool.ModelFacts) -> kdtool.ModelFacts:
        return stored if self.config.dtype == "auto" else replace(stored, dtype=self.config.dtype)

    def _find_weights(self, run: kdtool.RunInfo) -> Source:
        from kdtool_transformers import find_source

        if self._source is None:
            self._source = find_source(self.config.model, self.config.revision, run.say)
        return self._source

    def _refuse_quantised(self, run: kdtool.RunInfo) -> None:
        """Refuse weights that are stored quantised: they do not learn, and transformers would keep them so."""
        from kdtool_transformers import open_config

        location, revision = self._find_weights(run)
        stored = getattr(open_config(location, revision=revision, offline=run.offline), "quantization_config", None)
        if stored is not None:
            method = stored.get("quant_method", "unknown") if isinstance(stored, dict) else type(stored).__name__
            raise kdtool.UsageError(
                f"model: the weights of {self.config.model} are quantised ({method}), and a student learns in float32: give "
                "the model that they were made from, or a GGUF file"
            )
