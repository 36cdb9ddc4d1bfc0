"""The store that runs share: its folder, and the runs that use it.

Every run leaves a small file in `<store>/runs/` that names its folder, so that its artefacts are known to be in use. It also
marks the store as one, so that `clean` frees nothing in other folders.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock
from platformdirs import user_cache_path

from kdtool._errors import StorageError, UsageError
from kdtool._store.atomic_files import make_private, read_sealed, write_sealed
from kdtool._store.layout import STORE_MARK
from kdtool._store.remote import cache_folder

REGISTERED = "runs"


def store_folder(given: Path | str | None) -> Path:
    """Return the store: the given one, else KDTOOL_STORE, else a folder in the user's cache; of an address, its cache."""
    given = given or os.environ.get("KDTOOL_STORE") or user_cache_path("kdtool") / "store"
    return cache_folder(str(given)) if "://" in str(given) else Path(given).absolute()


def register_run(store: Path, folder: Path) -> None:
    """Mark the store, and record in it that the run in `folder` uses it; the caller holds the run's lock.

    Waits while the store is being cleaned, so that nothing vanishes between being found and being used.
    """
    folder = folder.absolute()
    name = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    path = store / REGISTERED / f"{name}.json"
    make_private(store)
    path.parent.mkdir(exist_ok=True)
    with store_lock(store):
        if not (store / STORE_MARK).exists():
            write_sealed(store / STORE_MARK, {"format": 1})
        write_sealed(path, {"folder": str(folder), "mount": str(_mount_of(folder))})


def _mount_of(folder: Path) -> Path:
    """Return the folder at which the disk of a run is mounted."""
    return next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))


def refuse_unmounted(runs: Mapping[Path, Path]) -> None:
    """Refuse if the disk of one of the `runs` is not mounted, since the needs of a run are in its folder.

    Raises:
        StorageError: with the run, and what to do.
    """
    for file, folder in runs.items():
        mount = json.loads(read_sealed(file, "")).get("mount", "/")
        if not folder.is_dir() and not os.path.ismount(mount):
            raise StorageError(
                f"the needs of the run in {folder} are unknown: its disk is not mounted at {mount}. Mount it, or delete "
                f"{file} if the run no longer exists"
            )


def refuse_other_folders(store: Path) -> None:
    """Refuse a folder that no run has used as its store.

    Raises:
        UsageError: it is a run's folder, or not of kdtool.
    """
    if not (store / STORE_MARK).is_file():
        raise UsageError(
            f"{store} is not a store: it lacks {STORE_MARK}, which every run writes into its store; give --store (or "
            "KDTOOL_STORE) the folder that runs were given"
        )


@contextmanager
def store_lock(store: Path) -> Iterator[None]:
    """Hold the store while a run is registered or artefacts are removed."""
    with FileLock(store / ".lock"):
        yield


def known_runs(store: Path) -> dict[Path, Path]:
    """Return the files that runs left in the store, each with the run's folder, which may be deleted since.

    Raises:
        StorageError: such a file is damaged, so that a run is unknown.
    """
    files = sorted((store / REGISTERED).glob("*.json"))
    remedy = "Run that run again, or delete the file if the run no longer exists"
    return {file: Path(json.loads(read_sealed(file, remedy))["folder"]) for file in files}


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder, each once however often it is linked."""
    sizes = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                found = Path(root, name).lstat()
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())
