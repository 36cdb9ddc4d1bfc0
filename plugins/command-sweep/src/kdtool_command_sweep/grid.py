"""From values of settings to the points of a grid, each with a label that names its run.

A label is a run's name: letters, digits, - and _. It shows what is special about the point, does not depend on the other
points, and differs from theirs also on file systems that do not distinguish A from a.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import kdtool
from kdtool._recipe.yaml import read_scalar

__all__ = ["Grid", "read_grid", "read_values"]

_LONGEST = 64
_DIGEST = 8
_PLAIN = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_NUMBER = re.compile(r"-?[0-9_]+(e-?[0-9]+)?|true|false|null")
_EXPECTED = "expected a YAML list of values, or one scalar, such as --grid 'student.layers=[8, 12]'"


@dataclass(frozen=True)
class Grid:
    """A grid of settings.

    Attributes:
        values: the keys that vary, with their values as a recipe reads them.
        points: settings by label, as they were given, in the order of their runs.
    """

    values: Mapping[str, tuple[Any, ...]]
    points: Mapping[str, Mapping[str, Any]]

    def special(self, label: str) -> dict[str, Any]:
        """Return what is special about a point: its values of the keys that vary, as a recipe reads them."""
        return {key: _read(self.points[label][key]) for key in self.values}


def read_grid(values: Mapping[str, Sequence[Any]]) -> Grid:
    """Make all combinations; the last key varies fastest.

    Raises:
        UsageError: with all that is wrong.
    """
    problems = [problem for key, given in values.items() for problem in _problems(key, given)]
    varied = {key: tuple(given) for key, given in values.items()}
    if not problems and not any(len(given) > 1 for given in varied.values()):
        remedy = "write for example --grid 'student.layers=[8, 12]'"
        problems.append(f"no key has more than one value, so there is nothing to sweep; {remedy}")
    if problems:
        raise kdtool.UsageError("; ".join(problems))
    names = _short_names([key for key, given in varied.items() if len(given) > 1])
    points = {}
    for combination in itertools.product(*varied.values()):
        point = dict(zip(varied, combination, strict=True))
        points[_label({name: point[key] for key, name in names.items()})] = point
    return Grid({key: tuple(map(_read, varied[key])) for key in names}, points)


def read_values(key: str, text: str) -> list[Any]:
    """Read the values of a key: a YAML list of them, or one scalar.

    Raises:
        UsageError: the text is neither.
    """
    try:
        read = read_scalar(text)
    except kdtool.RecipeError as error:
        raise kdtool.UsageError(f"--grid {key}={text}: {error.problems[0].message}; {_EXPECTED}") from error
    if isinstance(read, Mapping) or not text.strip():
        raise kdtool.UsageError(f"--grid {key}={text}: {_EXPECTED}")
    # text is quoted, since `read_grid` reads it again
    return [_quote(value) for value in (read if isinstance(read, list) else [read])]


def _quote(value: Any) -> Any:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else value


def _problems(key: str, given: Sequence[Any]) -> list[str]:
    if key == "name":
        return ["name cannot be swept: each point is named after its values"]
    if isinstance(given, str | bytes) or not isinstance(given, Sequence):
        return [f"{key} has {given!r} where a list of values is expected"]
    written = [_write_value(value) for value in given]
    twice = sorted({text for text in written if written.count(text) > 1})
    return [f"{key} has no values"] if not given else [f"{key} has the value {text} more than once" for text in twice]


def _read(value: Any) -> Any:
    """Return the value as a recipe reads it; unreadable text stays, and is refused when the recipe is read."""
    try:
        return read_scalar(value) if isinstance(value, str) else value
    except kdtool.RecipeError:
        return value


def _write_value(value: Any) -> str:
    return json.dumps(_read(value), sort_keys=True, default=str)


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Return the shortest end of each key path that no other key path has."""
    ends = {key: [end.lower() for end in _ends(key)] for key in keys}
    short = {}
    for key in keys:
        others = {end for other in keys if other != key for end in ends[other]}
        alone = (end for end in _ends(key) if end.lower() not in others)
        short[key] = next(alone, f"{_ends(key)[-1]}-{_digest(key)}")
    return short


def _ends(key: str) -> list[str]:
    parts = key.split(".")
    return ["-".join(parts[start:]) for start in reversed(range(len(parts)))]


def _label(values: Mapping[str, Any]) -> str:
    label = "--".join(f"{name}-{_short(value)}" for name, value in values.items())
    label = label if label[:1].isalnum() else f"x{label}"
    if len(label) <= _LONGEST:
        return label
    return f"{label[: _LONGEST - _DIGEST - 1]}-{_digest(label)}"


def _short(value: Any) -> str:
    """Write a value for a label: numbers and simple words as they are, others with a part of their hash."""
    read, text = _read(value), _write_value(value)
    if isinstance(read, bool | int | float) or read is None:
        plain = text.replace(".", "_").replace("+", "")
        return plain if _NUMBER.fullmatch(plain) else _digest(text)
    if isinstance(read, str) and _PLAIN.fullmatch(read) and read_scalar(read) == read:
        return read
    words = re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:24].strip("-")
    return "-".join(part for part in (words, _digest(text)) if part)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGEST]
