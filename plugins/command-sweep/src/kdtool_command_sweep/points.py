"""The points of a sweep: checked before the first one runs, run one at a time, and how each ended.

A point is a run in `<out>/<recipe's name>-sweep/<label>/`. A second call resumes where the first stopped; a finished point
costs no more than looking. Points share text, rows and signals through the store.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import kdtool
from kdtool._recipe.read import load_recipe

from kdtool_command_sweep.grid import Grid

__all__ = ["Request", "SweepPoint", "name_of", "run_point", "without_impossible"]

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
