"""Mistakes in settings, in a recipe's words: the values that a setting's JSON Schema allows, and the one found instead."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from kdtool._contract.component import Config
from kdtool._errors import Problem
from kdtool._recipe.model import Recipe, problem_at
from kdtool._recipe.yaml import KeyPath
from kdtool._text.did_you_mean import did_you_mean
from kdtool._text.schema_words import describe, resolve, show_value


def invalid(
    recipe: Recipe,
    key: KeyPath,
    what: str,
    config: type[Config],
    error: ValidationError,
    core_keys: Collection[str] = (),
) -> Iterator[Problem]:
    """Yield a problem for each of pydantic's errors in the settings under a key: those of `what`, declared by `config`.

    The `core_keys`, such as a loss's weight, are written among the settings and are suggested, too.
    """
    try:
        whole = resolve(config.model_json_schema())
    except Exception:  # of a plugin's own types
        whole = {}
    seen: set[KeyPath] = set()
    details = error.errors(include_url=False)
    for detail in details:
        loc, kind = detail["loc"], detail["type"]
        if kind == "too_short" and any(other["loc"][:-1] == loc for other in details):
            continue  # pydantic counts only the entries that are right
        schema, inside = _find(whole, loc)
        path = (*key, *map(str, loc[:inside]))
        if kind in {"extra_forbidden", "unexpected_keyword_argument"} and "anyOf" not in schema:
            path = (*key, *map(str, loc))
            known = {*schema.get("properties", {}), *(core_keys if len(loc) == 1 else ())}
            hint = did_you_mean(str(loc[-1]), known, what="settings", shown=20) or "it has no settings"
            yield problem_at(recipe, path, f"unknown setting{f' of {what}' if len(loc) == 1 else ''}", hint)
        elif kind in {"missing", "missing_argument"} and inside == len(loc):
            yield problem_at(recipe, path, f"is missing; {what} needs {describe(schema)}", _description(schema))
        elif path not in seen:
            seen.add(path)
            given = [detail["input"]] if 0 < len(loc) <= inside + 1 else []
            message, remedy = _mismatch(schema, detail, given)
            yield problem_at(recipe, path, message if loc else f"{what}: {message}", remedy)


def _find(schema: Mapping[str, Any], loc: Sequence[int | str]) -> tuple[Mapping[str, Any], int]:
    """Return the schema at a place, or that of the union which holds it, and the number of steps to there."""
    for depth, part in enumerate(loc):
        options = [option for option in schema.get("anyOf", (schema,)) if option.get("type") != "null"]
        if len(options) > 1:
            return schema, depth
        (only,) = options or [schema]
        key = "items" if isinstance(part, int) else "additionalProperties"
        below = only.get("properties", {}).get(part) or only.get(key)
        if not isinstance(below, Mapping):
            return only, depth
        schema = below
    return schema, len(loc)


def _mismatch(schema: Mapping[str, Any], detail: Any, given: Sequence[Any]) -> tuple[str, str]:
    """Return message and remedy for a value, if it is `given`."""
    allowed, message = describe(schema), detail["msg"].removeprefix("Value error, ")
    if detail["type"] in {"value_error", "assertion_error"} or not allowed:
        message = message.replace("Input should be", "must be")
    else:
        message = f"must be {allowed}"
    for value in given:
        message += f", not {show_value(value)}" if message.startswith("must be ") else f" (found {show_value(value)})"
    return message, _description(schema) if detail["type"] == "string_pattern_mismatch" else ""


def _description(schema: Mapping[str, Any]) -> str:
    return " ".join(str(schema.get("description", "")).split())
