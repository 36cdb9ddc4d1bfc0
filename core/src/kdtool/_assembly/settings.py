"""Settings of a component in words: keys as `--set` takes them, types with their bounds, defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

from kdtool._text.schema_words import describe, resolve


@dataclass(frozen=True)
class Setting:
    """One setting. `key` is dotted inside a nested mapping; `default` is JSON, or "" for a required setting."""

    key: str
    type: str
    default: str
    about: str


def settings_in(schema: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the settings in the JSON Schema of a `Config`, each mapping before its keys."""
    yield from _settings(resolve(schema), ())


def _settings(schema: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Setting]:
    for key, about in schema.get("properties", {}).items():
        default = "" if key in schema.get("required", []) else json.dumps(about.get("default"), ensure_ascii=False)
        kind = describe(about) or "any value"
        yield Setting(".".join((*path, key)), kind, default, cleandoc(about.get("description", "")))
        if len(path) < 2:  # a mapping may contain its own kind
            for nested in about.get("anyOf", [about]):
                yield from _settings(nested, (*path, key))
