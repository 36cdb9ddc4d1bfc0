"""Finished runs: those in the folder for runs and in the store's list, and several of them side by side.

Comparing measures nothing again: values come from `results.json`, and pairs from the items that evaluators wrote.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from typing import Any, Literal

from kdtool._contract.evaluation import ArmValue, Comparison, Measurement, Subject
from kdtool._contract.reporting import Results
from kdtool._errors import KdtoolError, StorageError, UsageError
from kdtool._plugins.hooks import translate_errors
from kdtool._results.comparisons import arm_of, compare_all, side_by_side
from kdtool._results.files import find_run, read_results
from kdtool._store.files import read_json
from kdtool._store.shared import GRAPH, HOLDER, PLACES, RESULTS, TASKS, bytes_below, known_runs, worker_of
from kdtool._text.names import did_you_mean
from kdtool._text.terminal import number

State = Literal["running", "done", "unfinished", "damaged"]
_ROLES = ("student", "control", "base", "reference", "teacher", "artifact")


@dataclass(frozen=True)
class KnownRun:
    """A run: its name, state, folder and size in bytes, and the time of the last work on it.

    `name` is the path below the folder for runs, which all commands accept; of a run elsewhere the name of its folder.
    `figure` is the first measurement that was compared, with the values of student, controls and teachers. `outcome` is the
    verdict of a finished run in a few words, the process that works on a running one, or the damage of the results.
    """

    name: str
    state: State
    when: datetime
    folder: Path
    bytes: int
    figure: str
    outcome: str


def list_runs(store: Path, out: Path, pattern: str = "", elsewhere: Sequence[Path] = ()) -> list[KnownRun]:
    """Return the runs in the store's list or in the folder `out`, the latest first.

    Args:
        store: the folder that runs share.
        out: the folder for runs.
        pattern: a part of the names that are wanted, or a pattern for them such as "quick*"; "" for all.
        elsewhere: folders with files of runs on other machines.

    Raises:
        StorageError: the store's list of runs is damaged.
    """
    marks = (*(f"*/{name}" for name in (GRAPH, RESULTS, HOLDER)), f"*/*/{GRAPH}")
    below = (path.parent for mark in marks for path in out.absolute().glob(mark))
    folders = {folder.resolve() for folder in (*known_runs(store).values(), *below, *elsewhere) if folder.is_dir()}
    named = {folder: _name_of(folder, out.resolve()) for folder in folders}
    wanted = (
        _inspect(folder, name)
        for folder, name in named.items()
        if pattern in name or fnmatchcase(name, pattern) or fnmatchcase(folder.name, pattern)
    )
    return sorted(wanted, key=lambda run: run.when, reverse=True)


def _name_of(folder: Path, out: Path) -> str:
    return folder.relative_to(out).as_posix() if out in folder.parents else folder.name


def _inspect(folder: Path, name: str) -> KnownRun:
    state: State = "unfinished"
    figure, outcome, begun, finished = "", "", _mtime(folder / GRAPH), _mtime(folder / RESULTS)
    if worker := worker_of(folder):
        state, outcome = "running", "; ".join([f"by {worker}", *_places(folder)])
    elif finished:
        try:
            results = read_results(folder)
            state, figure, outcome = "done", _figure(results), results.outcome
        except (KdtoolError, OSError) as error:
            state, outcome = "damaged", str(error).partition("\n")[0]
    stages = map(_mtime, folder.glob("*/*"))
    when = max(finished, begun, *stages, _mtime(folder) if not begun else 0.0)
    return KnownRun(name, state, datetime.fromtimestamp(when, UTC), folder, bytes_below(folder), figure, outcome)


def _places(folder: Path) -> Iterator[str]:
    """Yield the stages that an executor makes now, each with its place."""
    with suppress(OSError, StorageError, LookupError, TypeError):
        for place in read_json(folder / TASKS / PLACES, list):
            yield f"{place['title']} on {place['host']} (process {place['pid']})"


def _figure(results: Results) -> str:
    """Return the first compared measurement of student, controls and teachers; for a run of `eval`, of its models."""
    roles = {arm_of(subject): subject.role for subject in results.subjects}
    names = [one.measurement for one in results.comparisons] + [one.measurement for one in results.values]
    shown = [value for value in results.values if value.measurement == names[0]]
    if any(roles[value.arm] == "student" for value in shown):
        shown = [value for value in shown if roles[value.arm] != "artifact"]
    shown.sort(key=lambda value: _ROLES.index(roles[value.arm]))
    return f"{names[0]}: " + ", ".join(f"{value.arm} {number(value.value)}" for value in shown) if shown else ""


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


@dataclass(frozen=True)
class Compared:
    """Runs side by side: `values` of each run, and `comparisons` between them.

    `notes` name the pairs that were not compared, and why; `verdict` is the outcome in words.
    """

    values: Mapping[str, tuple[ArmValue, ...]]
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

    Returns:
        `values` of each run, `comparisons` between runs, `verdict` (the outcome in words), `notes` on pairs that were not
        compared, and all `measurements` and `subjects`.

    Raises:
        UsageError: fewer than two runs, one that is not there, not finished or without its items, or no run has such an arm.

    Example:
        compared = kdtool.compare(["quickstart", "longer"])
        print(compared.verdict)
    """
    folders = list(dict.fromkeys(find_run(run, out, given=runs) for run in runs))
    if len(folders) < 2:
        raise UsageError("give at least two runs to compare; `kdtool show RUN` shows one")
    results_by_run = {label: read_results(folder) for label, folder in _labels(folders).items()}
    known = {arm_of(subject) for results in results_by_run.values() for subject in results.subjects}
    if unknown := [arm for arm in arms if arm not in known]:
        raise UsageError(f"no run has an arm {unknown[0]!r}; {did_you_mean(unknown[0], known, what='there are')}")
    measurements: list[Measurement] = []
    subjects: list[Subject] = []
    chosen: dict[str, str] = {}
    run_of: dict[str, str] = {}
    for label, results in results_by_run.items():
        measurements += [replace(m, subject=f"{label}/{m.subject}") for m in _with_items(results)]
        subjects += [replace(s, name=f"{label}/{s.name}", arm=f"{label}/{arm_of(s)}") for s in results.subjects]
        trained = [subject for subject in results.subjects if subject.role == "student"]
        measured = trained or [subject for subject in results.subjects if subject.role != "teacher"]
        wanted = set(arms) or {arm_of(subject) for subject in measured or results.subjects}
        for subject in results.subjects:
            if (arm := arm_of(subject)) in wanted:
                chosen[f"{label}/{subject.name}"] = shown = label if len(wanted) == 1 else f"{label}/{arm}"
                run_of[shown] = label
    comparisons, notes = compare_all(measurements, subjects, chosen)
    between = tuple(c for c in comparisons if run_of[c.arm] != run_of[c.against])
    values = {label: results.values for label, results in results_by_run.items()}
    return Compared(values, between, tuple(notes), side_by_side(between), tuple(measurements), tuple(subjects))


def _labels(folders: Sequence[Path]) -> dict[str, Path]:
    """Name runs after their folders, with as much of the path as distinguishes them."""
    depth = next(n for n in count(1) if len({folder.parts[-n:] for folder in folders}) == len(folders))
    return {"/".join(folder.parts[-depth:]): folder for folder in folders}


def _with_items(results: Results) -> Iterator[Measurement]:
    """Yield a run's measurements with the paths of their items."""
    for measurement in results.measurements:
        items = measurement.items and results.folder / measurement.items
        if items and not items.is_file():
            remedy = "copy the whole folder of the run, including scores/ and not just results.json"
            raise UsageError(f"{results.folder} lacks {measurement.items}, from which runs are compared; {remedy}")
        yield replace(measurement, items=items)


def as_results(compared: Compared, folder: Path) -> Results:
    """Return a comparison as the results of a run, for reporters."""
    values = tuple(
        replace(value, arm=f"{label}/{value.arm}") for label, values in compared.values.items() for value in values
    )
    nothing: dict[str, Any] = {"arms": (), "stages": (), "components": (), "models": {}, "data": {}, "recipe": {}}
    return Results(
        name="comparison", folder=folder, verdict=compared.verdict, measurements=compared.measurements,
        comparisons=compared.comparisons, recipe_text="", environment={}, seconds=0.0, notes=compared.notes,
        subjects=compared.subjects, values=values, **nothing,
    )  # fmt: skip


def settings_by_run(compared: Compared) -> dict[str, dict[str, Mapping[str, str]]]:
    """Return the settings by measurement and run, without those that differ between a run's own subjects."""
    settings: dict[str, dict[str, Mapping[str, str]]] = {}
    for measurement in compared.measurements:
        run = next(run for run in compared.values if measurement.subject.startswith(f"{run}/"))
        runs, own = settings.setdefault(measurement.name, {}), measurement.settings
        runs[run] = {key: value for key, value in runs.get(run, own).items() if own.get(key) == value}
    return settings
