"""Models that are known before anything is downloaded: `published.json` contains their published configurations.

`kdtool check` describes them by it without a network. Weights are fetched when a run needs them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from kdtool_transformers._sources import is_cached

__all__ = ["absent_config", "published_bytes", "published_config"]


def published_config(hub_name: str) -> Mapping[str, Any]:
    """Return the content of the published config.json of a Hub name, without a network; empty if it is unknown.

    `published.json` holds what models of a family have in common, model type included, and what each adds to it.
    """
    content = _content()
    model = content["models"].get(hub_name)
    return {} if model is None else {**content["families"][model["family"]], **model["config"]}


def published_bytes(hub_name: str) -> int | None:
    """Return the bytes of the published safetensors of a Hub name, without a network; None if they are unknown."""
    model = _content()["models"].get(hub_name)
    return None if model is None else int(model["bytes"])


def absent_config(source: str, revision: str | None = None) -> Mapping[str, Any] | None:
    """Return the content of the published config.json of a Hub name that is not on this machine.

    None if it is on this machine, is not a Hub name, or is unknown, such as a branch or commit.
    """
    known = published_config(source) if revision is None else {}
    return known if known and not Path(source).expanduser().exists() and not is_cached(source) else None


@cache
def _content() -> dict[str, Any]:
    text = files("kdtool_transformers").joinpath("published.json").read_text(encoding="utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
