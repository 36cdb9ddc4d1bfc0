"""Free artefacts of the store that no run needs, and folders that killed processes left.

A run needs the artefacts in its `graph.json`, and the store knows its runs. Only folders that kdtool made are removed:
artefacts with a manifest or signs of having been begun, in the places where stages leave them, in a folder that runs have
marked as their store. Nothing is removed that a process works on (it holds a lock), and nothing at all while the needs of a
run are unknown: it has just begun, or its graph is damaged. Used by `kdtool clean`.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from kdtool._errors import LockedError
from kdtool._store.artefacts import MANIFEST, is_begun
from kdtool._store.atomic_files import read_sealed
from kdtool._store.layout import GRAPH, OWN_KINDS, SHARED_KINDS
from kdtool._store.locks import HOLDER, worker_of
from kdtool._store.shared_store import (
    bytes_below,
    known_runs,
    refuse_other_folders,
    refuse_unmounted,
    store_lock,
)

_NAME = re.compile(r"(.+-)?[0-9a-f]{16}(\.partial|\.fetching|\.removed|)")


@dataclass(frozen=True)
class Found:
    """A folder that can be freed: its size, and why."""

    path: Path
    bytes: int
    why: str


@dataclass(frozen=True)
class Cleaned:
    """Folders that can be freed, or were: `left` has the reasons for those that are still there.

    `total` is the size of the store before, in bytes.
    """

    found: tuple[Found, ...] = ()
    left: Mapping[Path, str] = field(default_factory=dict)
    total: int = 0
    runs: int = 0


def clean(store: Path, *, remove: bool = False) -> Cleaned:
    """Find folders that can be freed in the store and in its runs' folders; with `remove`, free them.

    Raises:
        LockedError: a run has just begun.
        StorageError: the record of a run cannot be read, or its disk is not mounted.
        UsageError: the folder is not a store.
    """
    if not store.is_dir() or not any(store.iterdir()):
        return Cleaned()
    store = store.resolve()
    refuse_other_folders(store)
    with store_lock(store):
        runs = known_runs(store)
        refuse_unmounted(runs)
        folders = sorted({folder.resolve() for folder in runs.values() if folder.is_dir()})
        needed = {path for folder in folders for path in _needs(store, folder)}
        unneeded = tuple(_find_unneeded(store, folders, needed))
        total = bytes_below(store)
        left = {item.path: reason for item in unneeded if remove for reason in [_remove(item.path)] if reason}
        for file, folder in runs.items():
            if remove and not folder.is_dir():  # deleted
                file.unlink(missing_ok=True)
    return Cleaned(unneeded, left, total, len(folders))


def _needs(store: Path, folder: Path) -> Iterator[Path]:
    """Yield the folders that the artefacts of a run are in, or will be."""
    file, holder = folder / GRAPH, folder / HOLDER
    # The graph is that of the run before until the process that holds the run has written its own.
    begun = holder.exists() and not (file.exists() and file.stat().st_mtime_ns >= holder.stat().st_mtime_ns)
    if begun and worker_of(folder):
        raise LockedError(f"the run in {folder} has just begun, and its needs are not known yet: try again later")
    if not file.exists():
        return
    remedy = "Run its recipe again, or delete that folder; until then the needs of the run are unknown"
    for node in json.loads(read_sealed(file, remedy))["nodes"].values():
        yield (store if node["in"] == "store" else folder) / node["path"]


def _find_unneeded(store: Path, folders: list[Path], needed: set[Path]) -> Iterator[Found]:
    parents = [root / kind for root in (store, *folders) for kind in (*SHARED_KINDS, *OWN_KINDS)]
    for path in (path for parent in parents for path in sorted(parent.glob("*"))):
        name = _NAME.fullmatch(path.name)
        if name is None or not path.is_dir() or path.is_symlink():
            continue
        needless = _bare(path) not in needed
        if name[2] == "" and needless and path.parent.parent == store and (path / MANIFEST).is_file():
            yield Found(path, bytes_below(path), "no run needs it")
        elif name[2] in {".removed", ".fetching"} or (name[2] == ".partial" and needless and is_begun(path)):
            yield Found(path, bytes_below(path), "left by a process that was stopped")


def _bare(path: Path) -> Path:
    """Return the artefact's folder once it is whole."""
    return path.with_name(re.sub(r"\.(partial|fetching|removed)$", "", path.name))


def _remove(path: Path) -> str | None:
    """Remove a folder; return why it is still there. It is renamed first, so that it is never half there."""
    bare = _bare(path)
    aside = bare.with_name(f"{bare.name}.removed")
    try:
        with FileLock(bare.with_name(f"{bare.name}.lock")).acquire(timeout=0):
            if path != aside:
                shutil.rmtree(aside, ignore_errors=True)
                path.rename(aside)
            shutil.rmtree(aside)
    except Timeout:
        return "another process is making it"
    except OSError as error:  # on Windows, also where another process has it open
        return f"cannot be removed: {error.strerror}"
    return None
