"""JSON Schema of recipes, for editors: the core's keys with the settings of every installed component.

A component that cannot be imported is left out of its kind's choices and named in `$comment`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from inspect import getdoc
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from kdtool._contract.component import Component
from kdtool._contract.loss_terms import Schedule
from kdtool._errors import KdtoolError, PluginError, cause_of
from kdtool._plugins.registry import entries_by_name, load
from kdtool._plugins.validation import mistakes
from kdtool._recipe.control import CONTROL_KEYS
from kdtool._recipe.layers import COLLECTIONS, PHASE_KEYS, SINGLE
from kdtool._recipe.model import ARMS
from kdtool._recipe.parser import TOP_KEYS
from kdtool._text.names import NAME
from kdtool._text.terminal import print_line

__all__ = ["class_and_settings", "recipe_schema"]

_WEIGHT: Mapping[str, Any] = {
    "description": "Weight of the term: a number, or a schedule over the phase.",
    "anyOf": [{"type": "number", "minimum": 0}, TypeAdapter(Schedule).json_schema()],
}
_SHARE: Mapping[str, Any] = {
    "description": "Share of the text to learn from, in bytes, where several corpora are mixed; all of them sum to 1.",
    "type": "number",
    "exclusiveMinimum": 0,
    "maximum": 1,
}
_TEACHER: Mapping[str, Any] = {
    "description": "Which teacher it learns from; or several with their shares, whose probabilities are mixed.",
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "additionalProperties": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"const": False}]},
            "minProperties": 1,
        },
    ],
}
_OWN_KEYS: Mapping[str, Mapping[str, Any]] = {
    "corpus": {"share": _SHARE},
    "loss": {"weight": _WEIGHT, "teacher": _TEACHER},
    "tracker": {"required": {"type": "boolean", "description": "Whether its failure stops the run."}},
}


def recipe_schema() -> dict[str, Any]:
    """Return the schema (draft 2020-12), composed from what is installed."""
    definitions: dict[str, Any] = {}
    kinds = sorted({*COLLECTIONS.values(), *SINGLE.values()})
    for kind in kinds:
        definitions[kind] = _component(kind, definitions)
    top = {key: _section(key) for key in TOP_KEYS if key in COLLECTIONS or key in SINGLE}
    singular = {kind: {"$ref": f"#/$defs/{kind}"} for key, kind in COLLECTIONS.items() if key in TOP_KEYS}
    phase = _phase()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "kdtool recipe",
        "type": "object",
        "properties": {
            "name": {"type": ["string", "null"], "pattern": f"^{NAME.pattern}$"},
            "seeds": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "uniqueItems": True},
            "terms_acknowledged": {
                "description": "Licences that are read and agreed to, by component.",
                "type": ["object", "null", "boolean"],
            },
            "extends": {"type": "string", "description": "A recipe that this one changes, relative to this file."},
            **top,
            **singular,
            "train": {"anyOf": [phase, {"type": "object", "additionalProperties": phase, "minProperties": 1}]},
            "control": _control(),
            "require": {
                "description": "What the student must reach: EVALUATOR.MEASUREMENT to a condition such as '>= 0.70'.",
                "type": ["object", "null", "boolean"],
                "additionalProperties": {"anyOf": [{"type": "string"}, {"const": False}, {"type": "null"}]},
            },
        },
        "additionalProperties": False,
        "$defs": definitions,
    }


def _section(key: str) -> dict[str, Any]:
    if key in SINGLE:
        return {"$ref": f"#/$defs/{SINGLE[key]}"}
    kind = COLLECTIONS[key]
    names = list(entries_by_name(kind))
    return {
        "anyOf": [
            {
                "type": "object",
                "properties": {name: {"$ref": f"#/$defs/{kind}.{name}"} for name in names},
                "additionalProperties": {"$ref": f"#/$defs/{kind}"},
            },
            {"type": "array", "items": {"type": "string"}, "uniqueItems": True},
            {"enum": [None, False]},
        ]
    }


def _component(kind: str, definitions: dict[str, Any]) -> dict[str, Any]:
    choices: list[Any] = [{"type": "string"}, {"type": ["null", "boolean"]}]
    broken = []
    for name in entries_by_name(kind):
        try:
            schema = _settings(kind, name)
        except KdtoolError as error:
            broken.append(str(error))
            definitions[f"{kind}.{name}"] = {}
            continue
        definitions.update(schema.pop("$defs", {}))
        named = {**schema, "properties": {**schema["properties"], "use": {"const": name}}}
        definitions[f"{kind}.{name}"] = {"anyOf": [named, {"type": ["null", "boolean"]}, _OTHER]}
        choices.append({**named, "required": [*schema.get("required", []), "use"]})
    choices.append(_OTHER)
    return {"anyOf": choices, **({"$comment": "; ".join(broken)} if broken else {})}


_OTHER: Mapping[str, Any] = {
    "type": "object",
    "properties": {"use": {"type": "string", "pattern": ":", "description": "module:Class or ./file.py:Class"}},
    "required": ["use"],
}


def class_and_settings(kind: str, name: str) -> tuple[type[Component], dict[str, Any]]:
    """Return an installed component's class and the JSON Schema of its settings.

    Raises:
        UsageError: nothing of that name is installed.
        PluginError: it cannot be imported, is no valid component, or its settings cannot be described.
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
        raise PluginError(f"{origin} is no valid component: it {'; it '.join(wrong)}")
    return loaded.cls, schema


def _settings(kind: str, name: str) -> dict[str, Any]:
    cls, schema = class_and_settings(kind, name)
    schema.setdefault("properties", {}).update(_OWN_KEYS.get(kind, {}))
    schema["description"] = (getdoc(cls) or "").partition("\n")[0]
    return schema


def _phase() -> dict[str, Any]:
    sections = {key: _section(key) for key in PHASE_KEYS if key in COLLECTIONS or key in SINGLE}
    singular = {COLLECTIONS[key]: {"$ref": f"#/$defs/{COLLECTIONS[key]}"} for key in PHASE_KEYS if key in COLLECTIONS}
    steps = {"type": "integer", "minimum": 1, "description": "Optimiser steps."}
    trains = {"type": "string", "description": "The teacher that this phase trains; the student where it is left out."}
    properties = {"steps": steps, "trains": trains, **sections, **singular}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _control() -> dict[str, Any]:
    match = {"enum": list(ARMS)}
    sections = {key: _section(key) for key in CONTROL_KEYS if key != "match"}
    properties = {"match": {"anyOf": [match, {"type": "array", "items": match, "minItems": 1}]}, **sections}
    whole = {"type": "object", "properties": properties, "additionalProperties": False}
    return {"anyOf": [whole, match, {"type": "array", "items": match}, {"type": "boolean"}]}
