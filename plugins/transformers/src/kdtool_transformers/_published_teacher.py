"""A teacher of a family whose models are known before anything is fetched.

Plugins for such families subclass `PublishedTeacher` and name the model of the family (`hub_name`).
"""

from __future__ import annotations

import kdtool

from kdtool_transformers._sources import Source
from kdtool_transformers._teacher import CausalTeacher, CausalTeacherConfig

__all__ = ["PublishedTeacher", "PublishedTeacherConfig"]


class PublishedTeacherConfig(CausalTeacherConfig):
    """Settings that every teacher of a known family has."""

    weights: kdtool.RecipePathOrName = kdtool.Field(default="auto", min_length=1)
    """`auto`: the published weights, from the local cache or the Hub. Or a folder, another Hub name, or a .gguf file."""


class PublishedTeacher(CausalTeacher):
    """A teacher of a known family. Described by its published configuration until its weights are downloaded."""

    config: PublishedTeacherConfig

    def hub_name(self) -> str:
        """Return the Hub name of the published model that the settings select."""
        raise NotImplementedError

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(self.hub_name()) if self.config.weights == "auto" else super().locate(run)

    def hub_source(self) -> tuple[str, str | None]:
        return (self.hub_name() if self.config.weights == "auto" else self.config.weights), None
