"""JSON Schema in words: the values that a setting may have, and a value that was found."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONGEST = 60
_NOUNS = {
    "integer": ("a whole number", "whole numbers"),
    "number": ("a number", "numbers"),
    "string": ("text", "texts"),
    "boolean": ("true or false", "truth values"),
    "object": ("a mapping", "mappings"),
    "array": ("a list", "lists"),
}
_WORDS = {None: "an empty value", True: "true", False: "false"}


def show_value(value: Any) -> str:
    """Return a recipe's value for a message, shortened."""
    text = _WORDS[value] if value is None or isinstance(value, bool) else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"


def resolve(schema: Any, definitions: Mapping[str, Any] | None = None, depth: int = 20) -> Any:
    """Return a schema with its references replaced by the definitions, to a limited depth."""
    if isinstance(schema, list):
        return [resolve(part, definitions, depth - 1) for part in schema]
    if not isinstance(schema, Mapping) or depth == 0:
        return schema
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    found = {**definitions.get(name, {}), **schema}
    return {key: resolve(part, definitions, depth - 1) for key, part in found.items() if key not in {"$ref", "$defs"}}


def describe(schema: Mapping[str, Any], *, plural: bool = False) -> str:
    """Return the values other than null that a schema allows, such as "a whole number from 1 to 100"; "" if unstated."""
    if "anyOf" in schema:
        options = (describe(option, plural=plural) for option in schema["anyOf"] if option.get("type") != "null")
        return " or ".join(dict.fromkeys(filter(None, options)))
    if "enum" in schema or "const" in schema:
        *others, last = map(show_value, schema.get("enum") or [schema["const"]])
        return f"{', '.join(others)} or {last}" if others else last
    if schema.get("type") not in _NOUNS:
        return ""
    noun = _NOUNS[schema["type"]][plural]
    if schema.get("format") == "path":
        noun = "paths" if plural else "a path"
    if any(schema.get(key) == 1 for key in ("minLength", "minItems", "minProperties")):
        noun = f"a non-empty {noun[2:]}" if noun.startswith("a ") else f"non-empty {noun}"
    if "pattern" in schema:
        return f"{noun} that matches {schema['pattern']}"
    if isinstance(schema.get("items"), Mapping) and (entries := describe(schema["items"], plural=True)):
        return f"{noun} of {entries}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"{noun} of names to {describe(schema['additionalProperties'], plural=True) or 'values'}"
    if "properties" in schema:
        return f"{noun} with the keys {', '.join(schema['properties'])}"
    return f"{noun}{_bounds(schema)}"


def _bounds(schema: Mapping[str, Any]) -> str:
    if "minimum" in schema and "maximum" in schema:
        return f" from {_number(schema['minimum'])} to {_number(schema['maximum'])}"
    if "minItems" in schema and schema["minItems"] == schema.get("maxItems"):
        return f" of {schema['minItems']} entries"
    ends = (
        ("minimum", "of at least {}"),
        ("exclusiveMinimum", "above {}"),
        ("maximum", "of at most {}"),
        ("exclusiveMaximum", "below {}"),
        ("maxLength", "of at most {} characters"),
    )
    words = [text.format(_number(schema[key])) for key, text in ends if key in schema]
    return f" {' and '.join([words[0], *(word.removeprefix('of ') for word in words[1:])])}" if words else ""


def _number(value: float) -> str:
    return f"{int(value):,}" if float(value).is_integer() else f"{value:g}"
