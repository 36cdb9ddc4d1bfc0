"""Sweeps: one recipe run at every point of a grid of settings, and one table of the results.

Every point is checked, then the points run one after the other, then their results become tables. A point is a run like
any other, in its own folder.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import kdtool

from kdtool_essentials.sweep.files import hold_folder as hold
from kdtool_essentials.sweep.files import write_sweep
from kdtool_essentials.sweep.points import Request, SweepPoint, name_of, read_grid, run_point, without_impossible
from kdtool_essentials.sweep.results import SweepCell, SweepResults, SweepRow, SweepTable, tables_of

__all__ = ["SweepCell", "SweepPoint", "SweepResults", "SweepRow", "SweepTable", "plan_sweep", "sweep"]


def sweep(
    recipe: Path | str | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
) -> SweepResults:
    """Run a recipe at every point of a grid, one after the other; a second call resumes where the first stopped.

    All points are checked before the first one runs. A point that cannot run or that fails does not stop the others, unless
    they would fail alike: all are refused for the same reason, money or a key is missing, the disk is full. Text, rows and
    signals are made once for all points that need the same.

    Args:
        recipe: a file, or the same as a mapping.
        grid: key paths to the values that each takes in turn, such as {"student.layers": [8, 12], "seeds": [[0, 1]]}.
        settings: key paths to values for all points.
        out: the folder for runs; this sweep works in `out/<name>-sweep`, and each point in its own folder there.
        store: the folder for text, rows and signals, which runs share; the user's cache by default.
        offline: use no network.

    Raises:
        KdtoolError: as `kdtool.run`; a `RecipeError` lists what is wrong with the recipe at all points.

    Example:
        found = sweep("recipes/quickstart.yaml", {"trainer.learning_rate": [5e-4, 1e-3], "student.layers": [8, 12]})
        for point in found.points:
            print(point.label, point.status, point.folder)
    """
    begun, request = _prepare(recipe, grid, settings, out, store)
    with hold(begun.folder):
        return _run_all(begun, replace(request, offline=offline))


def plan_sweep(
    recipe: Path | str | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
) -> dict[str, tuple[kdtool.PlannedStage, ...]]:
    """Return the stages that `sweep` with the same arguments would run or reuse, by the labels of points that can run.

    Artefacts of an earlier point count as reused.

    Raises:
        KdtoolError: as `kdtool.plan`.
    """
    begun, request = _prepare(recipe, grid, settings, out, store)
    planned: dict[str, tuple[kdtool.PlannedStage, ...]] = {}
    made: set[Path] = set()
    for point in (point for point in begun.points if point.status == "not run"):
        stages = request.plan(point)
        planned[point.label] = tuple(replace(s, action="reuse", why=()) if s.path in made else s for s in stages)
        made.update(stage.path for stage in stages)
    return planned


def _prepare(
    recipe: Path | str | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any] | None,
    out: Path | str,
    store: Path | str | None,
) -> tuple[SweepResults, Request]:
    """Check all points; those that cannot run have failed already."""
    read = read_grid(grid)
    request = Request(Path(recipe) if isinstance(recipe, str) else recipe, settings or {}, read, store)
    name = name_of(request)
    folder = Path(out).absolute() / f"{name}-sweep"
    points = without_impossible(
        [SweepPoint(label, read.special(label), folder / label) for label in read.points], request
    )
    for point in (point for point in points if point.status == "failed"):
        click.echo(f"{point.label} cannot run, the other points do: {point.error}", err=True)
    return SweepResults(name, folder, read.values, points, ()), request


def _run_all(begun: SweepResults, request: Request) -> SweepResults:
    points = list(begun.points)
    for index, point in enumerate(points):
        if point.status == "failed":  # known beforehand
            continue
        values = ", ".join(f"{key} {value}" for key, value in point.values.items())
        click.echo(f"point {index + 1} of {len(points)}: {point.label} ({values})", err=True)
        points[index] = run_point(point, request)
        if points[index].status == "failed":
            click.echo(f"{point.label} failed, the other points run: {points[index].error}", err=True)
        elif points[index].reused:
            click.echo(f"{point.label} was finished before: nothing ran", err=True)
        write_sweep(replace(begun, points=tuple(points)))
    tables = tables_of({point.label: point.results for point in points if point.results is not None})
    done = replace(begun, points=tuple(points), tables=tables, caution=_caution(tables))
    write_sweep(done)
    return done


def _caution(tables: Sequence[SweepTable]) -> str:
    """Return how picking the best point distorts its numbers; "" if nothing is ranked."""
    ranked = [row for table in tables for row in table.rows if row.standing]
    if not ranked:
        return ""
    one_seed = "" if any(cell.seeds > 1 for row in ranked for cell in row.cells.values()) else _ONE_SEED
    return f"{_OPTIMISTIC}{one_seed}"


_OPTIMISTIC = (
    "The best of several points is chosen by the numbers that report it, so they flatter it: choose on validation data, "
    "then measure the chosen point once on test data."
)
_ONE_SEED = " With one seed, a difference may be the seed's: give several."
