"""Names and values that users write: valid names, suggestions for misspelt ones, and JSON Schema in words.

`describe_schema` states the values that a setting may have, and `show_value` a value that was found.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import Any

TRACKER_THREAD = "kdtool tracker "
"""The beginning of the names of trackers' threads."""
_LONGEST = 64
NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9_-]{{0,{_LONGEST - 1}}}")
VALID_NAME = f"a name of up to {_LONGEST} letters, digits, - or _ that starts with a letter or digit"
"""The names that match `NAME`, for messages."""


def name_from(text: str, word: str, *, dots: bool = False, apart: str = "") -> str:
    """Return text as a name that is valid in recipes and on every file system, with `-` for other characters.

    If letters are lost, or it would be too long, a hash of the whole follows.

    Args:
        text: the source of the name.
        word: the name if no character of the text is left.
        dots: keep `.`, as in the names of models.
        apart: distinguishes names of the same text; such a name always has a hash.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    plain = re.sub(rf"[^A-Za-z0-9_{'.' if dots else ''}-]+", "-", plain).strip("-_.") or word
    if text.isascii() and len(plain) <= _LONGEST and not apart:
        return plain
    digest = hashlib.sha256((text + apart).encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{plain[: _LONGEST - 9].rstrip('-_.')}-{digest}"


def did_you_mean(given: str, known: Iterable[str], *, what: str = "known", shown: int = 8) -> str:
    """Return the names in `known` that are close to `given` or that it abbreviates, or else the first `shown` of them.

    "" if there are none.
    """
    names = sorted(set(known))
    initials = {name: "".join(word[:1] for word in re.split("[_-]", name)) for name in names}
    close = get_close_matches(given, names, n=2, cutoff=0.6) or [name for name in names if initials[name] == given]
    if close:
        return f"did you mean {' or '.join(repr(name) for name in close)}?"
    if not names:
        return ""
    rest = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{what}: {', '.join(names[:shown])}{rest}"


_LONGEST_VALUE = 60
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
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}…"


def resolve_schema(schema: Any, definitions: Mapping[str, Any] | None = None, depth: int = 20) -> Any:
    """Return a schema with its references replaced by the definitions, to a limited depth."""
    if isinstance(schema, list):
        return [resolve_schema(part, definitions, depth - 1) for part in schema]
    if not isinstance(schema, Mapping) or depth == 0:
        return schema
    definitions = schema.get("$defs", {}) if definitions is None else definitions
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    merged = {**definitions.get(name, {}), **schema}
    return {
        key: resolve_schema(part, definitions, depth - 1)
        for key, part in merged.items()
        if key not in {"$ref", "$defs"}
    }


def describe_schema(schema: Mapping[str, Any], *, plural: bool = False) -> str:
    """Return the values other than null that a schema allows, such as "a whole number from 1 to 100"; "" if unstated."""
    if "anyOf" in schema:
        options = (describe_schema(option, plural=plural) for option in schema["anyOf"] if option.get("type") != "null")
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
    if isinstance(schema.get("items"), Mapping) and (entries := describe_schema(schema["items"], plural=True)):
        return f"{noun} of {entries}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"{noun} of names to {describe_schema(schema['additionalProperties'], plural=True) or 'values'}"
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
