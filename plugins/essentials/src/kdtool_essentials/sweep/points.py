"""Points of a sweep: made from a grid of settings, checked before the first one runs, and run one at a time.

A label is a run's name: letters, digits, - and _. It shows what is special about the point, does not depend on the
other points, and differs from theirs also on file systems that do not distinguish A from a.

A point is a run in `<out>/<recipe's name>-sweep/<label>/`. A second call resumes where the first stopped; a finished
point costs no more than looking. Points share text, rows and signals through the store.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool._recipe.parser import load_recipe
from kdtool._recipe.yaml import read_scalar

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


_OF_ALL = (kdtool.BudgetError, kdtool.AuthenticationError, kdtool.StorageError)
"""Errors that the other points would meet too."""
_NAMED = 3
"""Points that an error names before it counts the others."""


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep and how it ended.

    Attributes:
        label: names the point and its run.
        values: the settings that are special about it.
        folder: the run's folder.
        status: "done", "failed" (also if it was known beforehand that it cannot run), or "not run" if the sweep was
            stopped before.
        reused: whether everything existed already.
        error: why it failed.
        exit_code: the exit code that its error has by itself.
        results: the run's results; None unless it is done.
    """

    label: str
    values: Mapping[str, Any]
    folder: Path
    status: Literal["done", "failed", "not run"] = "not run"
    reused: bool = False
    error: str = ""
    exit_code: int = 0
    results: kdtool.Results | None = None


@dataclass(frozen=True)
class Request:
    """The recipe, the settings of each point, and the folders that runs share."""

    recipe: Path | Mapping[str, Any]
    settings: Mapping[str, Any]
    grid: Grid
    store: Path | str | None
    offline: bool = False

    def settings_at(self, label: str) -> dict[str, Any]:
        """Return the settings of a point; its run has the label's name."""
        return {**self.settings, **self.grid.points[label], "name": json.dumps(label)}

    def plan(self, point: SweepPoint) -> tuple[kdtool.PlannedStage, ...]:
        """Plan the run of a point."""
        return kdtool.plan(self.recipe, self.settings_at(point.label), out=point.folder.parent, store=self.store)


def name_of(request: Request) -> str:
    """Return the recipe's own name, after looking for mistakes in the recipe at every point.

    Raises:
        RecipeError: with all that is wrong at any point.
    """
    affected: dict[kdtool.Problem, list[str]] = {}
    name = ""
    for label, of_point in request.grid.points.items():
        try:
            name = load_recipe(request.recipe, {**request.settings, **of_point}).name
            kdtool.plan(request.recipe, request.settings_at(label), store=request.store)
        except kdtool.RecipeError as error:
            for problem in error.problems:
                affected.setdefault(problem, []).append(label)
        except Exception:  # noqa: S112 - the point's run meets it too, and names the culprit
            continue
    if affected:
        count = len(request.grid.points)
        problems = [replace(problem, message=problem.message + _where(at, count)) for problem, at in affected.items()]
        raise kdtool.RecipeError(problems)
    return name


def without_impossible(points: Sequence[SweepPoint], request: Request) -> tuple[SweepPoint, ...]:
    """Look at every point as `kdtool check` does, and return those that cannot run as failed.

    Only refusals count: other errors, such as a file that is still to be fetched, are met when the point runs.

    Raises:
        UsageError: all points are refused alike.
    """
    looked_at = {point.label: _refusal(point, request) for point in points}
    refused = {label: error for label, error in looked_at.items() if error is not None}
    if len(refused) == len(points) and len(set(map(str, refused.values()))) == 1:
        raise refused[points[0].label]
    return tuple(_fail_point(point, refused[point.label]) if point.label in refused else point for point in points)


def run_point(point: SweepPoint, request: Request) -> SweepPoint:
    """Run a point and return its outcome. A missed requirement is not a failure: the point's report shows it.

    Raises:
        KdtoolError: of money or of the disk: the other points would meet it as well.
    """
    try:
        results = _results(point, request)
    except _OF_ALL:
        raise
    except Exception as error:
        return _fail_point(point, error)
    return replace(point, status="done", reused=all(stage.reused for stage in results.stages), results=results)


def _results(point: SweepPoint, request: Request) -> kdtool.Results:
    settings = request.settings_at(point.label)
    try:
        return kdtool.run(
            request.recipe, settings, out=point.folder.parent, store=request.store, offline=request.offline
        )
    except kdtool.TargetMissedError as error:
        if error.results is None:  # a component raised it
            raise
        results: kdtool.Results = error.results
        return results


def _refusal(point: SweepPoint, request: Request) -> kdtool.UsageError | None:
    settings = request.settings_at(point.label)
    unlimited = sys.maxsize  # what does not fit is not refused, and no remedy is looked for
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the point's run prints it again
            kdtool.check(request.recipe, settings, memory=unlimited, out=point.folder.parent, store=request.store)
    except kdtool.UsageError as error:
        return error
    except Exception:
        return None
    return None


def _fail_point(point: SweepPoint, error: Exception) -> SweepPoint:
    """Return the point as one that ended with this error."""
    known = isinstance(error, kdtool.KdtoolError)
    text = str(error) if known else f"{type(error).__name__}: {error}"
    notes = f" ({'; '.join(error.__notes__)})" if hasattr(error, "__notes__") else ""
    exit_code = error.exit_code if isinstance(error, kdtool.KdtoolError) else kdtool.KdtoolError.exit_code
    return replace(point, status="failed", error=f"{text}{notes}", exit_code=exit_code)


def _where(labels: Sequence[str], of: int) -> str:
    if len(labels) == of:
        return ""
    rest = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f" (at {'the point' if len(labels) == 1 else 'the points'} {', '.join(labels[:_NAMED])}{rest})"
