"""The store that runs share: where it is, and which runs use it.

Every run leaves a small file in `<store>/runs/` that names its folder, so that what it needs is known to be in use, and
marks the store as one, so that nothing is freed in a folder that is none. The runner calls `register_run` while it holds
the run's lock; `known_runs` lists the runs, `clean` frees what none needs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from kdtool._errors import UsageError
from kdtool._store.artefacts import storage_errors
from kdtool._store.atomic_files import read_sealed, write_sealed
from kdtool._store.layout import GRAPH

__all__ = [
    "REGISTERED",
    "bytes_below",
    "known_runs",
    "refuse_other_folders",
    "register_run",
    "store_folder",
    "store_lock",
]

REGISTERED = "runs"
_MARK = "kdtool-store.json"


def store_folder(given: Path | str | None) -> Path:
    """Return the store: the one that is given, else KDTOOL_STORE, else in the user's cache."""
    return Path(given or os.environ.get("KDTOOL_STORE") or user_cache_path("kdtool") / "store").absolute()


def register_run(store: Path, folder: Path) -> None:
    """Mark the store and note in it that the run in `folder` uses it; called by whoever holds the run's lock.

    Waits while the store is being cleaned, so that nothing vanishes between being found and being used.

    Raises:
        StorageError: the store cannot be written.
    """
    folder = folder.absolute()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    path = store / REGISTERED / f"{name}.json"
    with storage_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        with store_lock(store):
            if not (store / _MARK).exists():
                write_sealed(store / _MARK, {"format": 1})
            write_sealed(path, {"folder": str(folder)})


def refuse_other_folders(store: Path) -> None:
    """Refuse a folder that no run has used as its store.

    Raises:
        UsageError: it is a run's folder, or none of kdtool's.
    """
    if (store / _MARK).is_file():
        return
    remedy = "give --store (or KDTOOL_STORE) the folder that runs were given"
    if (store / GRAPH).exists():
        raise UsageError(
            f"{store} is the folder of a run, and no store; {remedy}. To delete the run, delete its folder"
        )
    raise UsageError(f"{store} is no store: it lacks {_MARK}, which every run writes into its store; {remedy}")


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold the store while its runs are registered or what none of them needs is removed."""
    with FileLock(store / ".lock"):
        yield


def known_runs(store: Path) -> dict[Path, Path]:
    """Return the files that runs left in the store, each with the run's folder, which may be gone since.

    Raises:
        StorageError: such a file is damaged, so that a run may be unknown.
    """
    files = sorted((store / REGISTERED).glob("*.json"))
    remedy = "Run that run again, or delete the file if there is no such run"
    return {file: Path(json.loads(read_sealed(file, remedy))["folder"]) for file in files}


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder."""
    total = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                total += Path(root, name).lstat().st_size
    return total
