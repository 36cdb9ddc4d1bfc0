"""The runs that are known: those that the store knows of, and those below the folder for runs. Used by `kdtool runs`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from kdtool._errors import StorageError
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH, RESULTS
from kdtool._store.locks import HOLDER, worker_of
from kdtool._store.shared_store import bytes_below, known_runs

__all__ = ["KnownRun", "list_runs"]


@dataclass(frozen=True)
class KnownRun:
    """A run: its name, whether it is done, when it was last worked on, where it is, its size, and what came out.

    `verdict` is that of the finished run; of others it says who works on it, or what is wrong.
    """

    name: str
    state: Literal["running", "done", "unfinished", "damaged"]
    when: datetime
    folder: Path
    bytes: int
    verdict: str


def list_runs(store: Path, out: Path) -> list[KnownRun]:
    """Return all runs that the store knows or that lie in the folder `out`, the latest first.

    Raises:
        StorageError: the store's list of runs is damaged.
    """
    below = (path.parent for name in (GRAPH, RESULTS, HOLDER) for path in out.absolute().glob(f"*/{name}"))
    folders = {folder.resolve() for folder in (*known_runs(store).values(), *below) if folder.is_dir()}
    return sorted(map(_known, folders), key=lambda run: run.when, reverse=True)


def _known(folder: Path) -> KnownRun:
    name, state, verdict = folder.name, "unfinished", ""
    worker = worker_of(folder)
    begun, finished = _changed(folder / GRAPH), _changed(folder / RESULTS)
    if worker:
        state, verdict = "running", f"by {worker}"
    elif finished and finished >= begun:
        state, verdict = _result(folder)
    when = max(finished, begun, *_stages(folder), folder.stat().st_mtime if not begun else 0.0)
    return KnownRun(name, state, datetime.fromtimestamp(when, UTC), folder, bytes_below(folder), verdict)  # type: ignore[arg-type]


def _result(folder: Path) -> tuple[str, str]:
    try:
        results = json.loads(read_sealed(folder / RESULTS, "Run the recipe again to write it anew"))
        return "done", str(results["verdict"]).partition("\n")[0]
    except (StorageError, OSError, ValueError, KeyError) as error:
        return "damaged", str(error)


def _stages(folder: Path) -> Iterator[float]:
    """Yield when each stage was last written to, finished or not."""
    for stage in folder.glob("*/*"):
        yield _changed(stage)


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
