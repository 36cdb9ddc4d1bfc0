"""Teacher plugin `causal-lm`: any causal language model that transformers opens."""

from __future__ import annotations

import kdtool
from kdtool_transformers import CausalTeacher, CausalTeacherConfig
from kdtool_transformers.card import terms_of

__all__ = ["CausalLM"]


class CausalLM(CausalTeacher):
    """A causal language model from a folder, from the hub, or from a GGUF file."""

    class Config(CausalTeacherConfig):
        """Settings of the teacher `causal-lm`."""

        model: kdtool.RecipePathOrName = kdtool.Field(min_length=1)
        """A folder with config.json and safetensors, a hub name (owner/name), or the path of a .gguf file."""
        revision: str | None = None
        """Branch, tag or commit of a hub name. None: the newest. The run records the commit."""

    config: Config

    def hub_source(self) -> tuple[str, str | None]:
        return self.config.model, self.config.revision

    @property
    def licence_terms(self) -> kdtool.LicenceTerms | None:
        return terms_of(self.config.model)
