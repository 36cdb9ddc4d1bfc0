"""A teacher of a family whose models are known before anything is fetched.

Plugins for such families subclass `PublishedTeacher` and name the model of the family (`hub_name`).
"""

from __future__ import annotations

from dataclasses import replace

import kdtool

from kdtool_transformers._infilling import FILL_ME, Infilling
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
    infilling: Infilling
    """Format of infilling prompts, for prompts that contain `FILL_ME`."""

    def hub_name(self) -> str:
        """Return the Hub name of the published model that the settings select."""
        raise NotImplementedError

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        return Source(self.hub_name()) if self.config.weights == "auto" else super().locate(run)

    def render(self, request: kdtool.Request) -> kdtool.Request:
        """Render a request in this family's format: code with `FILL_ME` in it becomes a prompt and its suffix.

        Raises:
            UsageError: there are several, or this model was not trained for infilling.
        """
        if FILL_ME not in request.prompt:
            return super().render(request)
        if request.prompt.count(FILL_ME) > 1:
            raise kdtool.UsageError(
                f"a prompt may hold one {FILL_ME}, this one has {request.prompt.count(FILL_ME)}: {request.prompt[:60]!r}"
            )
        tokenizer = self.open_tokenizer()
        missing = [mark for mark in self.infilling.tokens if not tokenizer.has_token(mark)]
        if missing:
            raise kdtool.UsageError(
                f"{self.find_weights().place} cannot infill at {FILL_ME}: its {tokenizer.vocabulary:,} tokens have no "
                f"{' and no '.join(missing)}; take a model of the family that was trained to, or prompts without it"
            )
        before, after = request.prompt.split(FILL_ME)
        return replace(request, prompt=before, suffix=after)

    def hub_source(self) -> tuple[str, str | None]:
        return (self.hub_name() if self.config.weights == "auto" else self.config.weights), None
