"""Finished runs side by side: every subject's values, and the differences between runs, with intervals.

Nothing is measured anew: values come from `results.json`, and pairs from the items that evaluators wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

from kdtool._contract.evaluation import Measurement, Subject
from kdtool._contract.reporting import Comparison, Results
from kdtool._errors import UsageError
from kdtool._plugins.attribution import translate_errors
from kdtool._results.compare_arms import compare_all, interval
from kdtool._results.files import read_results
from kdtool._results.verdict import side_by_side
from kdtool._store.layout import RESULTS
from kdtool._text.did_you_mean import did_you_mean


@dataclass(frozen=True)
class ComparedRow:
    """One arm of one run on one measurement: the mean over `seeds` seeds, and its 95 % interval where it has items."""

    run: str
    arm: str
    measurement: str
    unit: str
    higher_is_better: bool
    value: float
    low: float | None
    high: float | None
    seeds: int


@dataclass(frozen=True)
class Compared:
    """Runs side by side. `notes` name the pairs that were not compared, and why; `verdict` is the outcome in words."""

    rows: tuple[ComparedRow, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    verdict: str
    measurements: tuple[Measurement, ...]
    subjects: tuple[Subject, ...]


@translate_errors()
def compare(runs: Sequence[Path | str], *, out: Path | str = "runs", arms: Sequence[str] = ()) -> Compared:
    """Put finished runs side by side.

    Args:
        runs: folders of runs, or their names below `out`.
        out: the folder for runs.
        arms: which arms are compared between runs, such as "student" or "control"; by default the students, and the models
            of a run that only measured, or its teachers where there are no others.

    Raises:
        UsageError: fewer than two runs, one that is not there, not finished or without its items, or no run has such an arm.

    Example:
        found = kdtool.compare(["quickstart", "longer"])
        print(found.verdict)
    """
    folders = list(dict.fromkeys(run_folder(Path(run), Path(out)) for run in runs))
    if len(folders) < 2:
        raise UsageError("give at least two runs to compare")
    found = {label: read_results(folder) for label, folder in _labels(folders).items()}
    known = {arm_of(subject) for results in found.values() for subject in results.subjects}
    if unknown := [arm for arm in arms if arm not in known]:
        raise UsageError(f"no run has an arm {unknown[0]!r}; {did_you_mean(unknown[0], known, what='there are')}")
    measurements: list[Measurement] = []
    subjects: list[Subject] = []
    chosen: dict[str, str] = {}
    run_of: dict[str, str] = {}
    for label, results in found.items():
        measurements += [replace(m, subject=f"{label}/{m.subject}") for m in _with_items(results)]
        subjects += [replace(s, name=f"{label}/{s.name}", arm=f"{label}/{arm_of(s)}") for s in results.subjects]
        wanted = set(arms) or _default_arms(results.subjects)
        for subject in results.subjects:
            if (arm := arm_of(subject)) in wanted:
                chosen[f"{label}/{subject.name}"] = shown = label if len(wanted) == 1 else f"{label}/{arm}"
                run_of[shown] = label
    comparisons, notes = compare_all(measurements, subjects, chosen)
    between = tuple(c for c in comparisons if run_of[c.arm] != run_of[c.against])
    rows = tuple(row for label, results in found.items() for row in rows_of(label, results))
    return Compared(rows, between, tuple(notes), side_by_side(between), tuple(measurements), tuple(subjects))


def arm_of(subject: Subject) -> str:
    """Return the name that all seeds of a subject share."""
    return subject.arm or subject.name


def run_folder(run: Path, out: Path, what: str = "finished run") -> Path:
    """Return the folder of a run, given as a folder or by name; `what` goes into the message if there is none."""
    for folder in (run, out / run):
        if (folder / RESULTS).is_file():
            return folder.absolute()
    there = [path.parent.name for path in out.glob(f"*/{RESULTS}")]
    hint = did_you_mean(str(run), there, what=f"finished runs in {out}") or f"there are none in {out}"
    raise UsageError(f"{str(run)!r} is not a {what}: neither a folder with {RESULTS}, nor a name in {out}; {hint}")


def _labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Name runs after their folders, with as much of the path as distinguishes them."""
    depth = next(n for n in count(1) if len({folder.parts[-n:] for folder in folders}) == len(folders))
    return {"/".join(folder.parts[-depth:]): folder for folder in folders}


def _default_arms(subjects: Sequence[Subject]) -> set[str]:
    trained = [subject for subject in subjects if subject.role == "student"]
    measured = trained or [subject for subject in subjects if subject.role != "teacher"]
    return {arm_of(subject) for subject in measured or subjects}


def _with_items(results: Results) -> Iterator[Measurement]:
    """Yield a run's measurements with the paths of their items."""
    for measurement in results.measurements:
        items = measurement.items and results.folder / measurement.items
        if items and not items.is_file():
            remedy = "copy the run's folder whole, with scores/ and not results.json alone"
            raise UsageError(f"{results.folder} lacks {measurement.items}, from which runs are compared; {remedy}")
        yield replace(measurement, items=items)


def rows_of(label: str, results: Results) -> Iterator[ComparedRow]:
    """Yield every arm's value on every measurement of a run."""
    known = {subject.name: arm_of(subject) for subject in results.subjects}
    grouped: dict[tuple[str, str], list[Measurement]] = {}
    for measurement in _with_items(results):
        grouped.setdefault((measurement.name, known[measurement.subject]), []).append(measurement)
    for (name, arm), seeds in grouped.items():
        first = seeds[0]
        low, high = (first.low, first.high) if len(seeds) == 1 else interval(seeds) or (None, None)
        value = fmean(measurement.value for measurement in seeds)
        yield ComparedRow(label, arm, name, first.unit, first.higher_is_better, value, low, high, len(seeds))


def as_results(found: Compared, folder: Path) -> Results:
    """Return a comparison as the results of a run, for reporters."""
    nothing: dict[str, Any] = {"arms": (), "stages": (), "components": (), "models": {}, "data": {}, "recipe": {}}
    return Results(
        name="comparison", folder=folder, verdict=found.verdict, measurements=found.measurements,
        comparisons=found.comparisons, recipe_text="", environment={}, seconds=0.0, notes=found.notes,
        subjects=found.subjects, **nothing,
    )  # fmt: skip
