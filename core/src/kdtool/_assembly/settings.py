"""Settings of a component in words: keys as `--set` takes them, types with their bounds, defaults."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import cleandoc
from typing import Any

_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "minItems": "items ≥",
    "maxItems": "items ≤",
    "pattern": "matching",
}
_REF = "#/$defs/"


@dataclass(frozen=True)
class Setting:
    """One setting. `key` is dotted inside a nested mapping; `default` is JSON, or "" for a required setting."""

    key: str
    type: str
    default: str
    about: str


def settings_in(schema: Mapping[str, Any]) -> Iterator[Setting]:
    """Yield the settings in the JSON Schema of a `Config`, each mapping before its keys."""
    yield from _settings(schema, schema.get("$defs", {}), ())


def _settings(schema: Mapping[str, Any], known: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[Setting]:
    for key, about in schema.get("properties", {}).items():
        default = "" if key in schema.get("required", []) else json.dumps(about.get("default"), ensure_ascii=False)
        yield Setting(".".join((*path, key)), _type(about, known), default, cleandoc(about.get("description", "")))
        if len(path) < 2:  # a mapping may contain its own kind
            for nested in _mappings(about, known):
                yield from _settings(nested, known, (*path, key))


def _mappings(about: Mapping[str, Any], known: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for option in about.get("anyOf", [about]):
        found = _resolve(option, known)
        if "properties" in found:
            yield found


def _resolve(about: Mapping[str, Any], known: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = known.get(about.get("$ref", "").removeprefix(_REF), about)
    return found


def _type(about: Mapping[str, Any], known: Mapping[str, Any]) -> str:
    """Name a type with its bounds, from its JSON Schema."""
    about = _resolve(about, known)
    if "enum" in about:
        return " or ".join(map(str, about["enum"]))
    if "const" in about:
        return str(about["const"])
    for several in ("anyOf", "oneOf"):
        if several in about:
            return " or ".join(dict.fromkeys(_type(option, known) for option in about[several]))
    name = str(about.get("type", "any value"))
    if name == "array":
        items = about.get("items")
        inner = [*about.get("prefixItems", []), *([items] if isinstance(items, Mapping) else [])]
        name = f"list of {', '.join(dict.fromkeys(_type(each, known) for each in inner))}" if inner else "list"
    name = "mapping" if name == "object" else name
    bounds = " and ".join(f"{sign} {about[key]}" for key, sign in _BOUNDS.items() if key in about)
    return f"{name} {bounds}".rstrip()
