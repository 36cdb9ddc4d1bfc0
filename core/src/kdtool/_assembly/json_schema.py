"""JSON Schema of recipes, for editors, and the settings of a component in words.

The schema has the core's keys with the settings of every installed component. A component that cannot be imported is left
out of its kind's choices and named in `$comment`. No key is required: what a recipe extends, or the recipe's own `trainer`
above a phase's, may have it. Words are keys as `--set` takes them, types with their bounds, and defaults.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from inspect import cleandoc, getdoc
from pathlib import Path
from typing import Any

from kdtool._contract.component import Component, Config
from kdtool._contract.kind_table import TABLE
from kdtool._errors import KdtoolError, PluginError, cause_of
from kdtool._plugins.hook_specs import mistakes
from kdtool._plugins.registry import entries_by_name, load
from kdtool._recipe.layers import COLLECTIONS, PHASE_KEYS, SINGLE, TOP_KEYS
from kdtool._recipe.model import COMPONENT_KEYS, ControlKeys, PhaseKeys, RecipeKeys
from kdtool._recipe.parser import CONTROL_KEYS
from kdtool._text.names import describe_schema as describe
from kdtool._text.names import resolve_schema as resolve
from kdtool._text.terminal import print_line

_OFF: Mapping[str, Any] = {"enum": [None, False]}
_DEFAULTS: Mapping[str, Any] = {"type": ["null", "boolean"]}
_OTHER: Mapping[str, Any] = {
    "type": "object",
    "properties": {"use": {"type": "string", "pattern": ":", "description": "module:Class or ./file.py:Class"}},
    "required": ["use"],
}


def recipe_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12), composed from the installed components."""
    definitions: dict[str, Any] = {}
    for kind in TABLE:
        definitions[kind.name] = _component(kind.name, definitions)
    phase = _section(PhaseKeys, PHASE_KEYS, definitions)
    control = _section(ControlKeys, CONTROL_KEYS, definitions)
    whole = _section(RecipeKeys, TOP_KEYS, definitions)
    match = control["properties"]["match"]
    whole["properties"] |= {
        "train": {"anyOf": [phase, {"type": "object", "additionalProperties": phase, "minProperties": 1}]},
        "control": {"anyOf": [control, match, _DEFAULTS]},
    }
    schema = "https://json-schema.org/draft/2020-12/schema"
    return {"$schema": schema, "title": "kdtool recipe", **whole, "$defs": definitions}


def class_and_settings(kind: str, name: str) -> tuple[type[Component], dict[str, Any]]:
    """Return an installed component's class and the JSON Schema of its settings.

    Raises:
        UsageError: nothing of that name is installed.
        PluginError: it cannot be imported, is not a valid component, or its settings cannot be described.
    """
    loaded = load(kind, name, Path.cwd(), print_line)
    origin = f"{kind} {name!r} ({loaded.distribution} {loaded.version})"
    try:
        wrong = list(mistakes(loaded.cls, kind))
        schema = {} if wrong else loaded.cls.Config.model_json_schema(ref_template="#/$defs/{model}")
        json.dumps(schema)
    except Exception as error:
        raise PluginError(f"{origin} cannot be described: {cause_of(error)}") from error
    if wrong:
        raise PluginError(f"{origin} is not a valid component: it {'; it '.join(wrong)}")
    return loaded.cls, schema


def _section(model: type[Config], keys: Iterable[str], definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a section with its own keys, and keys of components in plural and singular form."""
    properties = _own_keys(model, definitions)
    for key in keys:
        if key in SINGLE:
            properties[key] = {"$ref": f"#/$defs/{SINGLE[key]}"}
        elif kind := COLLECTIONS.get(key):
            reference = {"$ref": f"#/$defs/{kind}"}
            other = {**reference, "required": ["use"]}
            names = {name: {"anyOf": [{"$ref": f"#/$defs/{kind}.{name}"}, other]} for name in entries_by_name(kind)}
            several = {"type": "object", "properties": names, "additionalProperties": reference}
            listed = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
            properties |= {kind: reference, key: {"anyOf": [several, listed, _OFF]}}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _component(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a component of a kind; `definitions` gets those of every installed one."""
    core_properties = _own_keys(COMPONENT_KEYS.get(kind, Config), definitions)
    choices: list[Any] = [{"type": "string"}, _DEFAULTS, _OTHER]
    broken = []
    for name in entries_by_name(kind):
        try:
            cls, schema = class_and_settings(kind, name)
        except KdtoolError as error:
            broken.append(str(error))
            definitions[f"{kind}.{name}"] = {}
            continue
        schema = _lift_requirements(schema)
        definitions.update(schema.pop("$defs", {}))
        schema["description"] = (getdoc(cls) or "").partition("\n")[0]
        schema["properties"] = {**schema.get("properties", {}), **core_properties, "use": {"const": name}}
        definitions[f"{kind}.{name}"] = {"anyOf": [schema, _DEFAULTS]}
        choices.append(schema)
    return {"anyOf": choices, **({"$comment": "; ".join(broken)} if broken else {})}


def _lift_requirements(schema: Any) -> Any:
    """Return a schema in which no key is required, at any depth: mappings are merged with those of the layers below."""
    if isinstance(schema, list):
        return [_lift_requirements(entry) for entry in schema]
    if not isinstance(schema, dict):
        return schema
    kept = {key: entry for key, entry in schema.items() if key != "required" or not isinstance(entry, list)}
    return {key: _lift_requirements(entry) for key, entry in kept.items()}


def _own_keys(own: type[Config], definitions: dict[str, Any]) -> dict[str, Any]:
    schema = _lift_requirements(own.model_json_schema(ref_template="#/$defs/{model}"))
    definitions.update(schema.pop("$defs", {}))
    return dict(schema.get("properties", {}))


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
