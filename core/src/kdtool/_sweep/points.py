"""The points of a sweep: looked at before the first one runs, run one after the other, and what became of each.

A point is a run in `<out>/<recipe's name>-sweep/<label>/`. A second call goes on where the first stopped; a point in which
everything is there already costs no more than looking. Points share text, rows and signals through the store.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from kdtool._assembly.assemble import assemble
from kdtool._contract.reporting import Results
from kdtool._errors import (
    AuthenticationError,
    BudgetError,
    KdtoolError,
    MemoryExceededError,
    RecipeError,
    StorageError,
    UsageError,
)
from kdtool._estimate.check import refuse_impossible
from kdtool._plugins.attribution import told
from kdtool._plugins.owner import owner_of
from kdtool._recipe.model import Recipe
from kdtool._recipe.read import load_recipe
from kdtool._run.execute import execute
from kdtool._sweep.grid import Grid
from kdtool._text.terminal import print_line

__all__ = ["Prepared", "SweepPoint", "prepare", "run_point", "without_impossible"]

_OF_ALL = (BudgetError, AuthenticationError, StorageError)
"""What would befall the other points too."""
_NAMED = 3


@dataclass(frozen=True)
class SweepPoint:
    """One point of a sweep and what became of it.

    Attributes:
        label: names the point and its run.
        values: the settings that are special about it.
        folder: the run's folder.
        status: "done", "failed" (also where it was known beforehand that it cannot run), or "not run" where the sweep was
            stopped before.
        reused: whether everything was there from before.
        error: why it failed.
        exit_code: the exit code that its error has by itself.
        results: what the run found out; None unless it is done.
    """

    label: str
    values: Mapping[str, Any]
    folder: Path
    status: Literal["done", "failed", "not run"] = "not run"
    reused: bool = False
    error: str = ""
    exit_code: int = 0
    results: Results | None = None


@dataclass(frozen=True)
class Prepared:
    """The recipes of all points of a sweep, which can be assembled; `name` is the recipe's own."""

    name: str
    recipes: Mapping[str, Recipe]


def prepare(recipe: Path | Mapping[str, Any], settings: Mapping[str, Any], grid: Grid) -> Prepared:
    """Assemble the recipe at every point; `settings` are the same at all of them.

    Raises:
        RecipeError: with all that is wrong at any point.
    """
    found: dict[Any, list[str]] = {}
    recipes: dict[str, Recipe] = {}
    name = ""
    for label, own in grid.points.items():
        try:
            loaded = load_recipe(recipe, {**settings, **own})
            name = loaded.name
            recipes[label] = replace(loaded, name=label)
            with assemble(recipes[label], print_line):
                pass
        except RecipeError as error:
            for problem in error.problems:
                found.setdefault(problem, []).append(label)
    if found:
        count = len(grid.points)
        raise RecipeError([replace(p, message=p.message + _where(labels, count)) for p, labels in found.items()])
    return Prepared(name, recipes)


def without_impossible(points: Sequence[SweepPoint], prepared: Prepared) -> tuple[SweepPoint, ...]:
    """Look at every point as `kdtool check` does, and return those that cannot run as failed.

    Only refusals count: whatever else goes wrong here, such as a file that is still to be fetched, is seen when it runs.

    Raises:
        UsageError: all points are refused alike.
    """
    looked_at = {point.label: _refusal(point, prepared.recipes[point.label]) for point in points}
    refused = {label: error for label, error in looked_at.items() if error is not None}
    if len(refused) == len(points) and len(set(map(str, refused.values()))) == 1:
        raise refused[points[0].label]
    return tuple(_failed(point, refused[point.label]) if point.label in refused else point for point in points)


def _refusal(point: SweepPoint, recipe: Recipe) -> UsageError | None:
    try:
        refuse_impossible(recipe, point.folder.parent)
    except UsageError as error:
        return error
    except Exception:
        return None  # the run meets it, too, and says whose it is
    return None


def run_point(point: SweepPoint, recipe: Recipe, store: Path, *, offline: bool, text: str) -> SweepPoint:
    """Run a point and return what became of it.

    Raises:
        KdtoolError: of money or of the disk: the other points would meet it as well.
    """
    try:
        with assemble(recipe, print_line) as assembly:
            results = execute(assembly, point.folder, store, offline=offline, recipe_text=text)
    except _OF_ALL:
        raise
    except Exception as error:
        return _failed(point, error)
    return replace(point, status="done", reused=all(stage.reused for stage in results.stages), results=results)


def _failed(point: SweepPoint, error: Exception) -> SweepPoint:
    """Return the point as one that ended with this error."""
    if isinstance(error, KdtoolError):
        return replace(point, status="failed", error=told(error), exit_code=error.exit_code)
    owner = owner_of(error)
    text = f"{owner or 'kdtool'} failed: {type(error).__name__}: {error}"
    exit_code = MemoryExceededError.exit_code if isinstance(error, MemoryError) else KdtoolError.exit_code
    return replace(point, status="failed", error=text, exit_code=exit_code)


def _where(labels: Sequence[str], of: int) -> str:
    if len(labels) == of:
        return ""
    more = f" and {len(labels) - _NAMED} more" if len(labels) > _NAMED else ""
    return f" (at {'the point' if len(labels) == 1 else 'the points'} {', '.join(labels[:_NAMED])}{more})"
