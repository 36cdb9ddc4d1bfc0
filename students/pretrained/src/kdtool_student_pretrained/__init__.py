"""Student plugin `pretrained`: any causal language model of transformers continues learning.

`Pretrained` is the student; `kdtool_transformers` finds its weights and their licence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import kdtool
from kdtool_transformers import CausalStudent, FimTokens, LocatedWeights

__all__ = ["Pretrained"]


class Pretrained(LocatedWeights, CausalStudent):
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
        fim_tokens: FimTokens | None = None
        """Three special tokens that the model does not use, to be renamed `<spm_prefix>`, `<spm_suffix>` and `<spm_middle>`,
        for rows with `fim`. None: the tokenizer's own FIM tokens, if any."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.fim_tokens = config.fim_tokens

    def hub_source(self) -> tuple[str, str | None]:
        return self.config.model, self.config.revision

    def kdtool_tokenizer(self, run: kdtool.RunInfo) -> kdtool.Tokenizer:
        return self.open_tokenizer(run)

    def kdtool_identity(self, run: kdtool.RunInfo) -> Mapping[str, str]:
        from kdtool_transformers import source_identity

        return {"weights": source_identity(self.find_weights(run), offline=run.offline), **super().kdtool_identity(run)}

    def kdtool_describe(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        import torch
        from kdtool_transformers import require_separate_documents

        if self.absent() is None:
            self._refuse_quantised(run)
        outline = self.outline(run)
        require_separate_documents(outline.model)
        outline.model.to(outline.model.dtype if self.config.dtype == "auto" else torch.float32)
        return outline

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        mapped = self.config.dtype == "auto"  # then it is written from its file, and only its pages are in memory
        for part in super().kdtool_estimate(run, ahead):
            if not (mapped and part.host_bytes and part.stages == ("students",)):
                yield part
        facts = ahead.models.get(ahead.student)
        yield from self.download_estimates(0 if facts is None else facts.parameters)

    def kdtool_build_student(self, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        import torch
        from kdtool_transformers import open_model

        location, revision = self.find_weights(run)
        dtype: torch.dtype = getattr(torch, self.kdtool_describe(run).facts.dtype)
        student = open_model(location, dtype=dtype, revision=revision, offline=run.offline)
        student.tokenizer = self.open_tokenizer(run)
        student.built_from = str(Path(location).resolve()) if Path(location).is_dir() else str(location)
        return student

    @property
    def licence_terms(self) -> kdtool.LicenceTerms | None:
        from kdtool_transformers.card import terms_of

        return terms_of(self.config.model)

    def _refuse_quantised(self, run: kdtool.RunInfo) -> None:
        """Refuse weights that are stored quantised: they do not learn, and transformers would keep them so."""
        from kdtool_transformers import open_config

        location, revision = self.find_weights(run)
        stored = getattr(open_config(location, revision=revision, offline=run.offline), "quantization_config", None)
        if stored is not None:
            method = stored.get("quant_method", "unknown") if isinstance(stored, dict) else type(stored).__name__
            raise kdtool.UsageError(
                f"model: the weights of {self.config.model} are quantised ({method}), and a student learns in float32: give "
                "the model that they were made from, or a GGUF file"
            )
