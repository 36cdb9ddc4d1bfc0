"""Models that are known before anything is fetched: `published.json` holds their configurations, as published.

`kdtool check` describes them by it without a network. Plugins for families of teachers subclass `PublishedTeacher` and say
which model of the family it is (`published`); others ask `absent_config`. Weights are fetched when a run needs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import kdtool

from kdtool_transformers._infilling import GAP, Infilling
from kdtool_transformers._sources import Source, find_source, is_cached
from kdtool_transformers._teacher import CausalTeacher, CausalTeacherConfig

__all__ = [
    "Published",
    "PublishedTeacher",
    "PublishedTeacherConfig",
    "absent_config",
    "absent_facts",
    "published_model",
]


@dataclass(frozen=True)
class Published:
    """A model as its publisher describes it: hub name, the content of config.json, bytes of its safetensors."""

    hub_name: str
    config: Mapping[str, Any]
    bytes: int


def published_model(hub_name: str) -> Published | None:
    """Return what is known of a hub name without a network, None where nothing is.

    `published.json` holds what models of a family have in common, model type included, and what each adds to it.
    """
    content = _content()
    model = content["models"].get(hub_name)
    if model is None:
        return None
    return Published(hub_name, {**content["families"][model["family"]], **model["config"]}, model["bytes"])


def absent_config(source: str, revision: str | None = None) -> Mapping[str, Any] | None:
    """Return the content of the published config.json of a hub name that is not on this machine.

    None where it is here, where it is no hub name, and where nothing is known of it, as of a branch or commit.
    """
    known = published_model(source) if revision is None else None
    if known is None or Path(source).expanduser().exists() or is_cached(source):
        return None
    return known.config


def absent_facts(config: Mapping[str, Any]) -> kdtool.ModelFacts:
    """Tell the shapes of a model by its published configuration."""
    from transformers import AutoConfig

    from kdtool_transformers._model import facts_of
    from kdtool_transformers._open import without_weights

    return facts_of(without_weights(AutoConfig.for_model(**config)), None)


@cache
def _content() -> dict[str, Any]:
    text = files("kdtool_transformers").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content


class PublishedTeacherConfig(CausalTeacherConfig):
    """Settings that every teacher of a known family has."""

    weights: str = kdtool.Field(default="auto", min_length=1)
    """`auto`: the published weights, from the local cache or the hub. Or a folder, another hub name, or a .gguf file."""


class PublishedTeacher(CausalTeacher):
    """A teacher of a known family. Described from its published configuration until its weights are there."""

    config: PublishedTeacherConfig
    infilling: Infilling
    """How it is asked for what is missing where a prompt holds `GAP`."""

    def published(self) -> Published:
        """Say which model the settings ask for."""
        raise NotImplementedError

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        if self.config.weights == "auto":
            return Source(self.published().hub_name)
        return find_source(self.config.weights, say=print if run is None else run.say)

    def written(self, prompt: str) -> str:
        """Write a prompt that holds `GAP` as this family wants it.

        Raises:
            UsageError: there are several gaps, or this model was not trained to fill any.
        """
        if GAP not in prompt:
            return prompt
        if prompt.count(GAP) > 1:
            raise kdtool.UsageError(f"a prompt may hold one {GAP}, this one has {prompt.count(GAP)}: {prompt[:60]!r}")
        marks = (self.infilling.prefix, self.infilling.suffix, self.infilling.middle)
        tokenizer = self._opened_tokenizer(None)
        missing = [mark for mark in marks if not tokenizer.has_token(mark)]
        if missing:
            raise kdtool.UsageError(
                f"{self._located(None).place} cannot fill the gap at {GAP}: its {tokenizer.vocabulary:,} tokens have no "
                f"{' and no '.join(missing)}; take a model of the family that was trained to, or prompts without a gap"
            )
        return self.infilling.written(*prompt.split(GAP))

    def fetched(self) -> tuple[str, str | None]:
        return (self.published().hub_name if self.config.weights == "auto" else self.config.weights), None

    def absent(self) -> Mapping[str, Any] | None:
        if self.config.weights != "auto":
            return absent_config(self.config.weights)
        return None if is_cached(self.published().hub_name) else self.published().config
