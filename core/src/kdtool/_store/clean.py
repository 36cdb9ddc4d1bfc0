"""Free what no run needs: artefacts of the store, and what killed processes left.

A run needs what its `graph.json` names, and the store knows its runs. Only what kdtool has made goes: artefacts with a
manifest or the signs of having been begun, in the places where stages leave them, in a folder that runs have marked as their
store. Nothing goes that a process works on (it holds a lock), and nothing at all while the needs of a run are unknown: it
has just begun, or its graph is damaged. Used by `kdtool clean`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from kdtool._errors import LockedError
from kdtool._store.artefacts import MANIFEST, is_begun, storage_errors
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH, OWN_KINDS, SHARED_KINDS
from kdtool._store.locks import HOLDER, worker_of
from kdtool._store.shared_store import bytes_below, known_runs, refuse_other_folders, store_lock

__all__ = ["Cleaned", "Found", "clean"]

_NAME = re.compile(r"(.+-)?[0-9a-f]{16}")
_PARTIAL, _REMOVED, _LOCK = ".partial", ".removed", ".lock"


@dataclass(frozen=True)
class Found:
    """A folder that can be freed: its size, and why."""

    path: Path
    bytes: int
    why: str


@dataclass(frozen=True)
class Cleaned:
    """What can be freed, or was: `left` tells why a folder is still there, `total` the size of the store before."""

    found: tuple[Found, ...] = ()
    left: Mapping[Path, str] = field(default_factory=dict)
    total: int = 0
    runs: int = 0


def clean(store: Path, *, remove: bool = False) -> Cleaned:
    """Find what can be freed in the store and in its runs' folders; with `remove`, free it.

    Raises:
        LockedError: a run has just begun.
        StorageError: the store cannot be written, or what a run needs cannot be read.
        UsageError: the folder is no store.
    """
    if not store.is_dir() or not any(store.iterdir()):
        return Cleaned()
    store = store.resolve()
    with storage_errors(store):
        refuse_other_folders(store)
        with store_lock(store):
            runs = _runs(store)
            total = bytes_below(store)
            found = _unneeded(store, runs)
            left = {item.path: reason for item in found if remove for reason in [_remove(item.path)] if reason}
            if remove:
                _forget_gone_runs(store)
    return Cleaned(tuple(found), left, total, len(runs))


@dataclass(frozen=True)
class _Run:
    """A run whose folder is there. `needs` are the folders that its artefacts are in, or will be."""

    folder: Path
    worker: str | None
    needs: frozenset[Path]


def _runs(store: Path) -> list[_Run]:
    folders = {folder.resolve() for folder in known_runs(store).values() if folder.is_dir()}
    return [_Run(folder, worker_of(folder), _needs(store, folder)) for folder in sorted(folders)]


def _needs(store: Path, folder: Path) -> frozenset[Path]:
    file, holder = folder / GRAPH, folder / HOLDER
    begun = holder.exists() and not (file.exists() and file.stat().st_mtime_ns >= holder.stat().st_mtime_ns)
    unknown = f"the run in {folder} has just begun, and what it needs is not known yet: try again later"
    if begun and worker_of(folder):
        raise LockedError(unknown)
    if not file.exists():
        return frozenset()
    remedy = "Run its recipe again, or delete that folder; until then it cannot be told what the run needs"
    graph = json.loads(read_sealed(file, remedy))
    if not graph.get("whole", True) and worker_of(folder):
        raise LockedError(unknown)
    nodes = graph["nodes"].values()
    return frozenset((store if node["in"] == "store" else folder) / node["path"] for node in nodes)


def _unneeded(store: Path, runs: list[_Run]) -> list[Found]:
    needed = {path for run in runs for path in run.needs}
    shared = list(_folders(store, SHARED_KINDS))
    own = [path for run in runs for path in _folders(run.folder, OWN_KINDS)]
    whole = [path for path in shared if path == _bare(path) not in needed and (path / MANIFEST).is_file()]
    left = [path for path in (*shared, *own) if _is_left(path) and not _continues(path, needed)]
    return [
        *(Found(path, bytes_below(path), "no run needs it") for path in whole),
        *(Found(path, bytes_below(path), "left by a process that was stopped") for path in left),
    ]


def _folders(root: Path, kinds: Sequence[str]) -> Iterator[Path]:
    """Yield the folders below those of the kinds that have the name of an artefact, whole or not."""
    for path in (path for kind in kinds for path in sorted((root / kind).glob("*"))):
        if _is_ours(_bare(path)) and path.is_dir() and not path.is_symlink():
            yield path


def _is_ours(bare: Path) -> bool:
    return _NAME.fullmatch(bare.name) is not None


def _is_left(path: Path) -> bool:
    """Say whether a process that was stopped left the folder: while it made an artefact, or while it removed one."""
    return path.suffix == _REMOVED or (path.suffix == _PARTIAL and is_begun(path))


def _continues(path: Path, needed: set[Path]) -> bool:
    return path.suffix == _PARTIAL and _bare(path) in needed


def _bare(path: Path) -> Path:
    """Return what the artefact's folder is called once it is whole."""
    return path.with_suffix("") if path.suffix in {_PARTIAL, _REMOVED, _LOCK} else path


def _remove(path: Path) -> str | None:
    """Remove a folder; return why it is still there. It is renamed first, so that it is never half there."""
    bare = _bare(path)
    aside = bare.with_name(bare.name + _REMOVED)
    try:
        with FileLock(bare.with_name(bare.name + _LOCK)).acquire(timeout=0):
            if path != aside:
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            shutil.rmtree(aside)
    except Timeout:
        return "another process is making it"
    except OSError as error:  # on Windows, also where another process has it open
        return f"cannot be removed: {error.strerror}"
    return None


def _forget_gone_runs(store: Path) -> None:
    for file, folder in known_runs(store).items():
        if not folder.is_dir():
            file.unlink(missing_ok=True)
