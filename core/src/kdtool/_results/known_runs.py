"""Runs in the folder for runs and in the store's list. Used by `kdtool runs`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from kdtool._contract.reporting import Results
from kdtool._errors import KdtoolError
from kdtool._results.compare_arms import arm_of
from kdtool._results.files import read_results
from kdtool._store.layout import GRAPH, PLACES, RESULTS, TASKS
from kdtool._store.locks import HOLDER, worker_of
from kdtool._store.shared_store import bytes_below, known_runs
from kdtool._text.markdown import number

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
    try:
        places = json.loads((folder / TASKS / PLACES).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    for place in places:
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
