"""The store that runs share, and the folders of runs: names of their files, the runs in use, locks, and a remote level.

Every run leaves a small file in `<store>/runs/` that names its folder, so that its artefacts are known to be in use. It also
marks the store as one, so that `clean` frees nothing in other folders. One process at a time works on a run: it holds a lock
on the run's folder, and a file has its pid, host, time and a random id.

A remote store is a bucket or shared folder, with the local folder as its cache. A plugin registers a class with the methods
of `Remote` as `remote` under `kdtool.stores`, called with the address and the local folder. Keys are `store/KIND/NAME` and
`runs/RUN/KIND/NAME`.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from platformdirs import user_cache_path

from kdtool._errors import LockedError, StorageError, UsageError
from kdtool._store.files import make_private, read_json, sealed_json, write_beside, write_sealed

GRAPH = "graph.json"
"""The file in a run's folder that holds what `Graph.record` returns."""
MODEL = "model"
"""The folder of a model inside its artefact."""
SHARED_KINDS = ("text", "teachers", "students", "rows", "signals")
"""Kinds of artefacts in the store that runs share."""
OWN_KINDS = ("phases", "exports", "scores")
"""Kinds of artefacts in a run's folder; those of controls may be in the store, and scores of teachers are."""
PRIVATE_KINDS = ("text", "rows", "signals", "scores")
"""Kinds of artefacts with prompts and answers: only their owner can read them, in the store and in runs."""
STORE_MARK = "kdtool-store.json"
"""The file that marks a folder as a store that runs share."""
RESULTS = "results.json"
"""The file in a run's folder that holds its `Results`."""
TASKS = "tasks"
"""The folder in a run's folder for the processes in which an executor makes its stages."""
PLACES = "places.json"
"""The file in `TASKS` with the title, the host and the process of each stage that is being made."""
EVENTS = "events.jsonl"
"""The file in a run's folder that holds its events, a line for each."""
_ADDRESS = "remote-address"
"""The file in a local folder that holds the address of its remote store."""


class Remote:
    """No remote level: nothing is fetched or kept elsewhere."""

    def has(self, key: str) -> bool:
        """Return whether an artefact is complete there."""
        return False

    def fetch(self, key: str, folder: Path) -> None:
        """Bring an artefact into its local folder, if it is complete there."""

    def keep(self, key: str, folder: Path) -> None:
        """Copy a local artefact there, unless it is there."""

    def lease(self, key: str, folder: Path, say: Callable[[str], None]) -> AbstractContextManager[object]:
        """Keep other machines from making an artefact during the block."""
        return nullcontext()

    def open_answers(self) -> None:
        """Bring the answers of teachers into the local folder, to be written by this machine until the run ends."""

    def run(self, name: str, folder: Path) -> AbstractContextManager[None]:
        """Hold a run during the block, and keep its files."""
        return nullcontext()

    def runs(self) -> list[Path]:
        """Return folders with the files of runs on other machines."""
        return []


def cache_folder(address: str) -> Path:
    """Return the local folder of a remote store, below KDTOOL_STORE_CACHE; a file in it holds the address."""
    parent = Path(os.environ.get("KDTOOL_STORE_CACHE") or user_cache_path("kdtool") / "stores").absolute()
    address = address.rstrip("/")
    digest = hashlib.sha256(address.encode()).hexdigest()[:8]
    folder = parent / f"{re.sub(r'[^A-Za-z0-9.-]+', '-', address)}-{digest}"
    if not (folder / _ADDRESS).exists():
        make_private(parent)
        make_private(folder)
        write_beside(folder / _ADDRESS, address)
    return folder


def address_of(store: Path) -> str | None:
    """Return the address of the remote store of a local folder; None if it is only local."""
    file = store / _ADDRESS
    return file.read_text(encoding="utf-8") if file.is_file() else None


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
        mount = next(parent for parent in (folder, *folder.parents) if os.path.ismount(parent))
        write_sealed(path, {"folder": str(folder), "mount": str(mount)})


def refuse_unmounted(runs: Mapping[Path, Path]) -> None:
    """Refuse if the disk of one of the `runs` is not mounted, since the needs of a run are in its folder.

    Raises:
        StorageError: with the run, and what to do.
    """
    for file, folder in runs.items():
        mount = sealed_json(file, "").get("mount", "/")
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
    return {file: Path(sealed_json(file, remedy, folder=str)["folder"]) for file in files}


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder, each once however often it is linked."""
    sizes = {}
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):  # removed meanwhile
                found = Path(root, name).lstat()
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


HOLDER = "lock.json"
_GLIMPSE = 0.5
"""Seconds for which a run's lock is asked for: `kdtool runs` holds it for a moment to see whether anyone else does."""
_LOOK = 0.1
"""Seconds for which a lock must stay held before it counts as a process that works on the run."""


@contextmanager
def run_lock(folder: Path) -> Iterator[dict[str, Any]]:
    """Hold the run's folder, and give the record of the holder; a lock that a killed process left is free by itself.

    Raises:
        LockedError: another process works on the run.
    """
    holder, process = folder / HOLDER, os.getpid()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=_GLIMPSE)
    except Timeout as error:
        raise LockedError(f"{folder} is in use{_by_holder(folder)}; wait for it, or choose another --out") from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        about: dict[str, Any] = {"pid": process, "host": platform.node(), "since": since, "id": secrets.token_hex(8)}
        write_beside(holder, json.dumps(about))
        yield about
    finally:
        if os.getpid() == process:  # not in a forked worker that comes by here when it ends
            with contextlib.suppress(OSError):  # a disk that became read-only
                holder.unlink(missing_ok=True)
            lock.release()


def worker_of(folder: Path) -> str | None:
    """Return a description of the process that works on the run in `folder`; None where none does.

    Where the lock cannot be opened for writing, a run counts as held if it names a holder.
    """
    path = folder / ".lock"
    if not path.exists():
        return None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LOOK, poll_interval=_LOOK / 4)  # others who look hold it for a moment, too
        lock.release()
    except Timeout:
        return _by_holder(folder).removeprefix(" by ") or "another process"
    except OSError:
        return _by_holder(folder).removeprefix(" by ") or None
    return None


def holder_of(folder: Path) -> dict[str, Any] | None:
    """Return the record of the process that works on the run; None where none does."""
    holder = recorded_holder(folder)
    return holder if holder is not None and worker_of(folder) is not None else None


def recorded_holder(folder: Path) -> dict[str, Any] | None:
    """Return the record of the last holder of the lock, which may have ended."""
    try:
        return read_json(folder / HOLDER, dict, pid=int, host=str, since=str, id=str)
    except (OSError, StorageError):
        return None


def is_led(folder: Path, leader: dict[str, Any] | None) -> bool:
    """Return whether the rank 0 that was agreed on still works on the run."""
    return leader is not None and (holder_of(folder) or {}).get("id") == leader["id"]


def _by_holder(folder: Path) -> str:
    holder = recorded_holder(folder)
    return f" by process {holder['pid']} on {holder['host']} since {holder['since']}" if holder else ""
