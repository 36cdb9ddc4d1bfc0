"""Runs in the folder for runs and in the store's list, and their removal. Used by `kdtool runs`."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from kdtool._contract.reporting import Results
from kdtool._errors import KdtoolError, LockedError, UsageError
from kdtool._results.compare_arms import arm_of
from kdtool._results.files import read_results
from kdtool._store.artefacts import storage_errors
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH, RESULTS, STORE_MARK
from kdtool._store.locks import HOLDER, run_lock, worker_of
from kdtool._store.shared_store import bytes_below, known_runs
from kdtool._text.markdown import number

State = Literal["running", "done", "unfinished", "damaged"]
_ROLES = ("student", "control", "base", "teacher", "artifact")


@dataclass(frozen=True)
class KnownRun:
    """A run: its name, state, folder and size in bytes, and the time of the last work on it.

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


def list_runs(store: Path, out: Path, pattern: str = "") -> list[KnownRun]:
    """Return the runs in the store's list or in the folder `out`, the latest first.

    Args:
        store: the folder that runs share.
        out: the folder for runs.
        pattern: a part of the names that are wanted, or a pattern for them such as "quick*"; "" for all.

    Raises:
        StorageError: the store's list of runs is damaged.
    """
    below = (path.parent for name in (GRAPH, RESULTS, HOLDER) for path in out.absolute().glob(f"*/{name}"))
    folders = {folder.resolve() for folder in (*known_runs(store).values(), *below) if folder.is_dir()}
    wanted = (folder for folder in folders if pattern in folder.name or fnmatchcase(folder.name, pattern))
    return sorted(map(_inspect, wanted), key=lambda run: run.when, reverse=True)


def remove_run(folder: Path) -> None:
    """Delete the folder of a run; everything in the store stays.

    Raises:
        LockedError: a process works on it.
        StorageError: its graph is damaged, so that it may belong to another program, or the folder cannot be deleted.
        UsageError: a store or another run is inside.
    """
    folder = folder.resolve()
    read_sealed(folder / GRAPH, "Delete the folder by hand if it is the folder of a run")
    if worker := worker_of(folder):
        raise LockedError(f"{folder} is in use by {worker}; stop it first")
    if (folder / STORE_MARK).exists():
        raise UsageError(f"{folder} is also a store that runs share; see `kdtool clean`")
    with storage_errors(folder.parent), run_lock(folder):
        if inside := [path.parent for name in (GRAPH, STORE_MARK) for path in folder.glob(f"*/**/{name}")]:
            raise UsageError(f"{folder} holds another run or a store, {inside[0]}; move it elsewhere first")
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".removed", dir=folder.parent))
        folder.rename(aside / folder.name)  # at once, so that no half of a run is left under its name
    with storage_errors(folder.parent):
        shutil.rmtree(aside)


def _inspect(folder: Path) -> KnownRun:
    state: State = "unfinished"
    figure, outcome, begun, finished = "", "", _mtime(folder / GRAPH), _mtime(folder / RESULTS)
    if worker := worker_of(folder):
        state, outcome = "running", f"by {worker}"
    elif finished and finished >= begun:
        try:
            results = read_results(folder)
            state, figure, outcome = "done", _figure(results), results.outcome
        except (KdtoolError, OSError) as error:
            state, outcome = "damaged", str(error).partition("\n")[0]
    stages = map(_mtime, folder.glob("*/*"))
    when = max(finished, begun, *stages, _mtime(folder) if not begun else 0.0)
    return KnownRun(folder.name, state, datetime.fromtimestamp(when, UTC), folder, bytes_below(folder), figure, outcome)


def _figure(results: Results) -> str:
    """Return the first compared measurement of the student beside controls and teachers; of a run of `eval`, its models."""
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
