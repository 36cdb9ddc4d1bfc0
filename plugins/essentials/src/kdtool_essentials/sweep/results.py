"""Results of a sweep: measurements of all points side by side, and the best point, if one is shown to be best.

Measurements are means over seeds with intervals. Points are compared as a run compares its arms: paired over items and
seeds, with a 95 % interval over both (`kdtool._results.compare_arms`). Nothing is ranked that was measured differently.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from kdtool import Measurement, Results, Subject
from kdtool._results.comparisons import compare, differing, interval, read_items

from kdtool_essentials.sweep.points import SweepPoint

Standing = Literal["best", "not shown to differ", "worse", "best value", ""]


@dataclass(frozen=True)
class SweepCell:
    """The mean over `seeds` seeds; `low` and `high` bound its 95 % interval if there are several."""

    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class SweepRow:
    """One point: a cell for each column that was measured there.

    `standing` compares its student with the best point's: "not shown to differ" is a tie within the precision. "best
    value" is the best of numbers between which no difference was tested.
    """

    point: str
    cells: Mapping[str, SweepCell]
    standing: Standing = ""


@dataclass(frozen=True)
class SweepTable:
    """One measurement over all points. Rows are ranked by the column `ranked_by`, the best first; `note` is a caveat."""

    measurement: str
    unit: str
    higher_is_better: bool
    columns: tuple[str, ...]
    rows: tuple[SweepRow, ...]
    ranked_by: str
    note: str = ""


@dataclass(frozen=True)
class SweepResults:
    """The results of a sweep.

    Attributes:
        name: the recipe's name.
        folder: contains `sweep.json`, `sweep.md`, `sweep.html`, and a folder for each point's run.
        grid: the keys that vary, with their values.
        points: in the order of their runs.
        tables: one for each measurement.
        caution: how far to trust the best point.
    """

    name: str
    folder: Path
    grid: Mapping[str, Sequence[Any]]
    points: tuple[SweepPoint, ...]
    tables: tuple[SweepTable, ...]
    caution: str = ""

    @property
    def exit_code(self) -> int:
        """0 if every point is done, else the exit code of the first that failed."""
        return next((point.exit_code for point in self.points if point.status == "failed"), 0)


BySeed = Mapping[int | None, Measurement]


def tables_of(results: Mapping[str, Results]) -> tuple[SweepTable, ...]:
    """Put the measurements of finished points, by label, into one table for each measurement."""
    names = dict.fromkeys(measurement.name for result in results.values() for measurement in result.measurements)
    texts = {stage.fingerprint for result in results.values() for stage in result.stages if stage.name == "text"}
    return tuple(_table(name, results, same_texts=len(texts) <= 1) for name in names)


def _table(name: str, results: Mapping[str, Results], *, same_texts: bool) -> SweepTable:
    by_column: dict[str, dict[str, dict[int | None, Measurement]]] = {}
    for label, result in results.items():
        subjects = {subject.name: subject for subject in result.subjects}
        for measurement in result.measurements:
            if measurement.name == name:
                subject = subjects[measurement.subject]
                by_column.setdefault(_column(subject), {}).setdefault(label, {})[subject.seed] = measurement
    columns = _in_order(by_column, results.values())
    ranked_by = next((column for column in columns if column == "student" or column.startswith("student-")), "")
    standings, note = _standings(by_column[ranked_by]) if ranked_by else ({}, "")
    if standings and not same_texts:
        note = "; ".join(
            part for part in (note, "the points' texts differ, so items of one name may differ too") if part
        )
    first = _first(next(iter(by_column.values())))
    cells = {label: {c: _cell(by_column[c][label]) for c in columns if label in by_column[c]} for label in results}
    rows = tuple(SweepRow(label, cells[label], standings.get(label, "")) for label in results)
    if standings:
        sign = -1 if first.higher_is_better else 1
        measured = by_column[ranked_by]
        rows = tuple(sorted(rows, key=lambda row: sign * _mean(measured[row.point]) if row.point in measured else inf))
    return SweepTable(name, first.unit, first.higher_is_better, columns, rows, ranked_by, note)


def _column(subject: Subject) -> str:
    """Return the subject's name without its seed, which is the same at all points."""
    return subject.name if subject.seed is None else re.sub(rf"-seed{subject.seed}(?!\d)", "", subject.name)


def _in_order(columns: Collection[str], results: Iterable[Results]) -> tuple[str, ...]:
    """Order columns as runs name their subjects, exported files last."""
    subjects = sorted((s for result in results for s in result.subjects), key=lambda s: s.role == "artifact")
    known = dict.fromkeys(map(_column, subjects))
    return tuple(name for name in known if name in columns)


def _cell(by_seed: BySeed) -> SweepCell:
    bounds = interval(list(by_seed.values())) if len(by_seed) > 1 else None
    low, high = bounds or (None, None)
    return SweepCell(_mean(by_seed), low, high, len(by_seed))


def _mean(by_seed: BySeed) -> float:
    return fmean(measurement.value for measurement in by_seed.values())


def _standings(points: Mapping[str, BySeed]) -> tuple[dict[str, Standing], str]:
    """Return how each point compares with the best, and a note; nothing if they cannot be compared."""
    if len(points) < 2:
        return {}, ""
    differs = _difference(points)
    if differs:
        return {}, f"not ranked: {differs}"
    sign = 1 if _first(points).higher_is_better else -1
    best = max(points, key=lambda label: sign * _mean(points[label]))
    if any(measurement.items is None for by_seed in points.values() for measurement in by_seed.values()):
        return {best: "best value"}, "differences are not tested: it is not measured item by item"
    standings: dict[str, Standing] = {best: "best"}
    for label, by_seed in points.items():
        if label != best:
            pairs = [(by_seed[seed], points[best][seed]) for seed in by_seed]
            comparison = compare(label, best, pairs)
            standings[label] = "worse" if comparison and comparison.verdict == "worse" else "not shown to differ"
    tied = "worse" not in standings.values()
    return standings, "no point is shown to differ from the best" if tied else ""


def _difference(points: Mapping[str, BySeed]) -> str:
    """Return how the points were measured differently; "" if they were not."""
    others = [next(iter(by_seed.values())) for by_seed in points.values()]
    keys = sorted({key for other in others for key in differing(others[0], other)})
    if keys:
        return f"the points were measured differently ({', '.join(keys)})"
    if any(by_seed.keys() != _seeds(points) for by_seed in points.values()):
        return "the points have different seeds"
    items = [set(read_items(measurement.items)) for by_seed in points.values() for measurement in by_seed.values()]
    return "" if all(names == items[0] for names in items) else "the points were measured on different items"


def _first(points: Mapping[str, BySeed]) -> Measurement:
    return next(measurement for by_seed in points.values() for measurement in by_seed.values())


def _seeds(points: Mapping[str, BySeed]) -> Collection[int | None]:
    return next(iter(points.values())).keys()
