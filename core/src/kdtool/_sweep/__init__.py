"""A sweep: one recipe run at every point of a grid of settings, and one table of what came out.

- `grid` values to points, with a readable label for each
- `points` the points assembled, run one after the other, and what became of them
- `table` measurements of all points side by side, and which is best
- `record` `sweep.json` and `sweep.md`

`kdtool.sweep` and the command `kdtool sweep` use it. A point is a run like any other, in a folder of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdtool._assembly.assemble import assemble
from kdtool._run.plan import PlannedStage, plan_run
from kdtool._store.locks import run_lock
from kdtool._store.shared_store import store_folder
from kdtool._sweep.grid import read_grid
from kdtool._sweep.points import Prepared, SweepPoint, prepare, run_point, without_impossible
from kdtool._sweep.record import SweepResults, write_sweep
from kdtool._sweep.table import SweepTable, tables_of
from kdtool._text.terminal import print_line

__all__ = ["plan_sweep", "sweep"]


def sweep(
    recipe: Path | str | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
    offline: bool = False,
) -> SweepResults:
    """Run a recipe at every point of a grid, one after the other; a second call goes on where the first stopped.

    All points are assembled and looked at as `check` does before the first one runs. A point that cannot run or that fails
    does not keep the others from running, unless they would fail alike: all are refused for the same reason, money or a key
    is missing, the disk is full. Text, rows and signals are made once for all points that need the same.

    Args:
        recipe: a file, or the same as a mapping.
        grid: key paths to the values that each takes in turn, such as {"student.layers": [8, 12], "seeds": [[0, 1]]}.
        settings: key paths to values for all points.
        out: the folder for runs; this sweep works in `out/<name>-sweep`, and each point in a folder of its own there.
        store: the folder for text, rows and signals, which runs share; the user's cache by default.
        offline: use no network.

    Raises:
        KdtoolError: see `kdtool._errors`; `RecipeError` tells what is wrong with the recipe at all points at once.

    Example:
        found = kdtool.sweep("recipes/quickstart.yaml", {"trainer.learning_rate": [5e-4, 1e-3], "student.layers": [8, 12]})
        for point in found.points:
            print(point.label, point.status, point.folder)
    """
    sofar, prepared = _prepared(recipe, grid, settings, Path(out))
    text = Path(recipe).read_text(encoding="utf-8-sig") if isinstance(recipe, Path | str) else ""
    with run_lock(sofar.folder):
        return _run_all(sofar, prepared, store_folder(store), offline=offline, text=text)


def plan_sweep(
    recipe: Path | str | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any] | None = None,
    *,
    out: Path | str = "runs",
    store: Path | str | None = None,
) -> dict[str, tuple[PlannedStage, ...]]:
    """Say what `sweep` with the same arguments would do at each point that can run; what an earlier point makes is reused.

    Raises:
        KdtoolError: as `kdtool.plan`.
    """
    sofar, prepared = _prepared(recipe, grid, settings, Path(out))
    found: dict[str, tuple[PlannedStage, ...]] = {}
    made: set[Path] = set()
    for point in (point for point in sofar.points if point.status == "not run"):
        with assemble(prepared.recipes[point.label], print_line) as assembly:
            stages = plan_run(assembly, point.folder, store_folder(store))
        found[point.label] = tuple(replace(s, action="reuse", why=()) if s.path in made else s for s in stages)
        made.update(stage.path for stage in stages)
    return found


def _prepared(
    recipe: Path | str | Mapping[str, Any],
    grid: Mapping[str, Sequence[Any]],
    settings: Mapping[str, Any] | None,
    out: Path,
) -> tuple[SweepResults, Prepared]:
    """Assemble all points and look at each; say which cannot run."""
    made = read_grid(grid)
    prepared = prepare(Path(recipe) if isinstance(recipe, str) else recipe, settings or {}, made)
    folder = out.absolute() / f"{prepared.name}-sweep"
    named = tuple(SweepPoint(label, made.special(label), folder / label) for label in made.points)
    points = without_impossible(named, prepared)
    for point in (point for point in points if point.status == "failed"):
        print_line(f"{point.label} cannot run, the other points go on: {point.error}")
    return SweepResults(prepared.name, folder, made.values, points, ()), prepared


def _run_all(sweep: SweepResults, prepared: Prepared, store: Path, *, offline: bool, text: str) -> SweepResults:
    points = list(sweep.points)
    for index, point in enumerate(points):
        if point.status == "failed":  # known beforehand
            continue
        print_line(f"point {index + 1} of {len(points)}: {point.label}")
        points[index] = run_point(point, prepared.recipes[point.label], store, offline=offline, text=text)
        if points[index].status == "failed":
            print_line(f"{point.label} failed, the other points go on: {points[index].error}")
        elif points[index].reused:
            print_line(f"{point.label} was finished before: nothing ran")
        write_sweep(replace(sweep, points=tuple(points)))
    tables = tables_of({point.label: point.results for point in points if point.results is not None})
    done = replace(sweep, points=tuple(points), tables=tables, caution=_caution(tables))
    write_sweep(done)
    return done


def _caution(tables: Sequence[SweepTable]) -> str:
    """Say what picking the best does to its numbers; nothing where nothing is ranked."""
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
