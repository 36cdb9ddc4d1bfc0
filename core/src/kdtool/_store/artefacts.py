"""Artefacts: folders that are complete or absent, and freeing those that no run needs.

An artefact is made in `<name>.partial`, which carries its fingerprint, so that a killed stage resumes there with the files
that it had committed (`commit`). When it is whole its files are synced, a manifest of sizes and SHA-256 is written, and
the folder is renamed. A second process that makes the same artefact waits for the first. Sizes of a reused artefact are
compared with the manifest at once, bytes before they are used: `verify` a folder, `check_file` a file.

Two processes are kept apart by locks of the operating system (flock, or LockFileEx on Windows). A network file system must
support them and renames that are at once seen everywhere: NFS from version 4 and SMB do. Where locks are missing, two
machines must not share a store or a run. On Windows a file that another process has mapped cannot be renamed or deleted:
nothing here does either to a complete artefact, and `kdtool clean` reports such a folder and keeps it.

A run needs the artefacts in its `graph.json`, and the store knows its runs. `clean` removes only folders that kdtool made:
artefacts with a manifest or signs of having been begun, in the places where stages leave them, in a folder that runs have
marked as their store. Nothing is removed that a process works on (it holds a lock), and nothing at all while the needs of a
run are unknown: it has just begun, or its graph is damaged.
"""

from __future__ import annotations

import contextlib
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdtool._errors import LockedError, StorageError
from kdtool._store.files import (
    KEPT,
    PRIVATE,
    RECORD,
    UnfitFileError,
    discard_uncommitted,
    entry_of,
    make_private,
    problem_of,
    process_number,
    record_files,
    remember,
    sealed_json,
    sync,
    write_sealed,
)
from kdtool._store.shared import (
    GRAPH,
    HOLDER,
    OWN_KINDS,
    PRIVATE_KINDS,
    SHARED_KINDS,
    Remote,
    bytes_below,
    known_runs,
    refuse_other_folders,
    refuse_unmounted,
    store_lock,
    worker_of,
)

MANIFEST = "manifest.json"
_KEPT_DIGITS = 16


@dataclass(frozen=True)
class Artefact:
    """A complete artefact. `seconds` is the time that making it took, whenever that was."""

    path: Path
    fingerprint: str
    seconds: float
    reused: bool


class Artefacts:
    """Artefacts below one folder, by kind: a run's own, or the store that runs share.

    Behind it may be a `remote` store, which has them below `prefix`.
    """

    def __init__(self, root: Path, remote: Remote | None = None, prefix: str = "") -> None:
        self.root = root
        self.remote = remote or Remote()
        self._prefix = prefix

    def path_of(self, kind: str, label: str, fingerprint: str) -> Path:
        """Return the folder in which the artefact is, once it is made."""
        return self.root / kind / "-".join(part for part in (label, fingerprint[:_KEPT_DIGITS]) if part)

    def exists(self, kind: str, label: str, fingerprint: str) -> bool:
        """Return whether the artefact is there or in the remote store, without reading its files."""
        path = self.path_of(kind, label, fingerprint)
        return (path / MANIFEST).is_file() or self.remote.has(self._key(path))

    def find(self, kind: str, label: str, fingerprint: str) -> Artefact | None:
        """Return the artefact if it is complete, after comparing the sizes of its files with its manifest.

        Raises:
            StorageError: one of its files is missing or has another size; the message names it and the remedy.
        """
        path = self.path_of(kind, label, fingerprint)
        if not path.exists():
            return None
        verify(path, hashing=False)
        manifest = _manifest(path)
        if manifest["fingerprint"] != fingerprint:
            raise _damage(path, f"{path / MANIFEST} belongs to another artefact")
        return Artefact(path, fingerprint, manifest["seconds"], reused=True)

    def make(
        self,
        kind: str,
        label: str,
        fingerprint: str,
        *,
        build: Callable[[Path], None],
        waiting: Callable[[str], None],
        about: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """Return the artefact, making it by `build(partial_folder)` if it is not there.

        Files that a killed process committed are still in the folder. `waiting` is called with a line while another process
        makes the same artefact, and for damaged work of a killed one. `about` goes into the manifest.

        Raises:
            StorageError: the artefact is damaged.
        """
        path = self.path_of(kind, label, fingerprint)
        make_private(self.root)
        path.parent.mkdir(exist_ok=True)
        with _lock(path.with_name(path.name + ".lock"), waiting):
            made = self._find_anywhere(kind, label, fingerprint)
            if made is None:
                with self.remote.lease(self._key(path), path, waiting):
                    made = self._find_anywhere(kind, label, fingerprint)
                    made = made or self._build(path, fingerprint, build, waiting, about or {})
            self.remote.keep(self._key(path), path)
            return made

    def _find_anywhere(self, kind: str, label: str, fingerprint: str) -> Artefact | None:
        path = self.path_of(kind, label, fingerprint)
        if not path.exists():
            self.remote.fetch(self._key(path), path)
        return self.find(kind, label, fingerprint)

    def _key(self, path: Path) -> str:
        return f"{self._prefix}/{path.parent.name}/{path.name}"

    def _build(
        self,
        path: Path,
        fingerprint: str,
        build: Callable[[Path], None],
        say: Callable[[str], None],
        about: Mapping[str, Any],
    ) -> Artefact:
        partial = path.with_name(path.name + ".partial")
        is_private = path.parent.name in PRIVATE_KINDS
        if partial.is_symlink():  # what is not committed is deleted in it
            raise UnfitFileError(f"{partial} is a link; expected a folder; remove it")
        partial.mkdir(mode=0o700 if is_private else 0o777, exist_ok=True)
        with contextlib.suppress(StorageError):  # none, unless a process was killed just before the rename
            verify(partial)
            _complete(partial, path)
            return Artefact(path, fingerprint, _manifest(path)["seconds"], reused=False)
        before, start = _time_spent(partial), time.monotonic()
        discard_uncommitted(partial, say)
        write_sealed(partial / KEPT, {"seconds": before})
        build(partial)
        seconds = before + time.monotonic() - start
        engine_files = {*partial.glob(f"{KEPT}*"), *record_files(partial)}
        made = sorted({file for file in partial.rglob("*") if file.is_file()} - engine_files)
        for file in made:
            if is_private:
                file.chmod(PRIVATE)
            sync(file)
        files = {file.relative_to(partial).as_posix(): entry_of(file) for file in made}
        write_sealed(partial / MANIFEST, {"fingerprint": fingerprint, "seconds": seconds, "files": files, **about})
        _complete(partial, path)
        for name, entry in files.items():
            remember(path / name, entry, path / name)
        sync(path.parent)
        return Artefact(path, fingerprint, seconds, reused=False)


def _complete(partial: Path, path: Path) -> None:
    """Rename a folder whose manifest is written, without the engine's files of unfinished folders."""
    for left in (*partial.glob(f"{KEPT}*"), *record_files(partial)):
        left.unlink()
    partial.replace(path)


def is_begun(partial: Path) -> bool:
    """Return whether an unfinished artefact was begun by kdtool: a file of the engine is in it, or nothing yet."""
    names = [found.name for found in partial.iterdir()]
    return not names or any(name.startswith((KEPT, MANIFEST, RECORD)) for name in names)


def verify(path: Path, *, hashing: bool = True) -> None:
    """Compare the files of a complete artefact with its manifest: by size, and by content where `hashing`.

    Raises:
        StorageError: a file is missing or is not what was written; the message names it and the remedy.
    """
    for name, entry in _manifest(path)["files"].items():
        if problem := problem_of(path / name, entry, hashing=hashing):
            raise _damage(path, f"{path / name} {problem}")


def check_file(path: Path, name: str) -> Path:
    """Return the path of a file of a complete artefact, after comparing it with the manifest; of a partial one as it is.

    Of several processes, only the first compares contents.

    Raises:
        StorageError: it is missing or is not what was written.
    """
    entry = _manifest(path)["files"].get(name) if (path / MANIFEST).exists() else None
    if entry and (problem := problem_of(path / name, entry, hashing=process_number() == "0")):
        raise _damage(path, f"{path / name} {problem}")
    return path / name


def _time_spent(partial: Path) -> float:
    """Return the seconds of earlier attempts, each up to the last change of a file: nothing records when a process dies."""
    file = partial / KEPT
    if not file.exists():
        return 0.0
    before = float(sealed_json(file, f"Delete {file} and run again")["seconds"])
    last = max(path.lstat().st_mtime for path in (partial, *partial.rglob("*")))  # a link may lead nowhere
    return before + max(0.0, last - file.stat().st_mtime)


@contextmanager
def _lock(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0.2)
    except Timeout:
        waiting(f"another process is making {path.stem}; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return sealed_json(path / MANIFEST, "", fingerprint=str, files=dict)
    except FileNotFoundError:
        raise _damage(path, f"{path / MANIFEST} is missing") from None
    except (StorageError, OSError):
        raise _damage(path, f"{path / MANIFEST} is not what was written") from None


def _damage(path: Path, problem: str) -> StorageError:
    return StorageError(f"a stored file is damaged: {problem}. Delete the folder {path} and run again to make it again")


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
    for node in sealed_json(file, remedy, nodes=dict)["nodes"].values():
        yield (store if node["in"] == "store" else folder) / node["path"]


def _find_unneeded(store: Path, folders: list[Path], needed: set[Path]) -> Iterator[Found]:
    parents = [root / kind for root in (store, *folders) for kind in (*SHARED_KINDS, *OWN_KINDS)]
    for path in (path for parent in parents if not parent.is_symlink() for path in sorted(parent.glob("*"))):
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
