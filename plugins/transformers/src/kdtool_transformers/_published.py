"""Models that are known before anything is fetched: `published.json` holds their configurations, as published.

`kdtool check` describes them by it without a network. Weights are fetched when a run needs them.
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

from kdtool_transformers._sources import is_cached

__all__ = ["Published", "absent_config", "absent_facts", "published_model"]


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

    None if it is on this machine, is not a hub name, or is unknown, such as a branch or commit.
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
