"""List of runs: those in the store's list, and those below the folder for runs. Used by `kdtool runs`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from kdtool._errors import StorageError
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH, RESULTS
from kdtool._store.locks import HOLDER, worker_of
from kdtool._store.shared_store import bytes_below, known_runs


@dataclass(frozen=True)
class KnownRun:
    """A run: its name, its state, when it was last worked on, its folder and size, and its outcome.

    `verdict` is that of a finished run, the process that works on a running one, or the damage of the results.
    """

    name: str
    state: Literal["running", "done", "unfinished", "damaged"]
    when: datetime
    folder: Path
    bytes: int
    verdict: str


def list_runs(store: Path, out: Path) -> list[KnownRun]:
    """Return all runs in the store's list or in the folder `out`, the latest first.

    Raises:
        StorageError: the store's list of runs is damaged.
    """
    below = (path.parent for name in (GRAPH, RESULTS, HOLDER) for path in out.absolute().glob(f"*/{name}"))
    folders = {folder.resolve() for folder in (*known_runs(store).values(), *below) if folder.is_dir()}
    return sorted(map(_inspect, folders), key=lambda run: run.when, reverse=True)


def _inspect(folder: Path) -> KnownRun:
    state: Literal["running", "done", "unfinished", "damaged"] = "unfinished"
    verdict, begun, finished = "", _mtime(folder / GRAPH), _mtime(folder / RESULTS)
    if worker := worker_of(folder):
        state, verdict = "running", f"by {worker}"
    elif finished and finished >= begun:
        try:
            results = json.loads(read_sealed(folder / RESULTS, "Run the recipe again to write it anew"))
            state, verdict = "done", str(results["verdict"]).partition("\n")[0]
        except (StorageError, OSError, ValueError, KeyError) as error:
            state, verdict = "damaged", str(error)
    stages = map(_mtime, folder.glob("*/*"))
    when = max(finished, begun, *stages, _mtime(folder) if not begun else 0.0)
    return KnownRun(folder.name, state, datetime.fromtimestamp(when, UTC), folder, bytes_below(folder), verdict)


def _mtime(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
