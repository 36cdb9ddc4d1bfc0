"""Artefacts: folders that are complete or absent.

An artefact is made in `<name>.partial`, which carries its fingerprint, so that a killed stage continues in it. When it is
whole its files are synced, a manifest of sizes and SHA-256 is written, and the folder is renamed. A second process that
makes the same artefact waits and takes the first's. What is reused is compared with its manifest, byte by byte.

Two processes are kept apart by locks of the operating system (flock, or LockFileEx on Windows). A network file system must
support them and renames that are at once seen everywhere: NFS from version 4 and SMB do; where locks are missing, two
machines must not share a store or a run. On Windows a file that another process has mapped cannot be renamed or deleted:
nothing here does either to a complete artefact, and `kdtool clean` leaves such a folder and says so.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdtool._errors import KdtoolError, StorageError
from kdtool._run.sealed import read_sealed, write_sealed

__all__ = ["MANIFEST", "Artefact", "Artefacts", "emptied", "is_begun", "problems_of", "storage_errors", "sync_files"]

MANIFEST = "manifest.json"
_SECONDS = ".seconds"
_KEPT_DIGITS = 16
_FULL = {errno.ENOSPC, errno.EROFS, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM}
_REFUSED = {*_NOT_ALLOWED, errno.ENOTDIR, errno.EEXIST}


@dataclass(frozen=True)
class Artefact:
    """A complete artefact. `seconds` is what making it took, whenever that was."""

    path: Path
    fingerprint: str
    seconds: float
    reused: bool


class Artefacts:
    """Artefacts below one folder, by kind: a run's own, or the store that runs share."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path_of(self, kind: str, label: str, fingerprint: str) -> Path:
        """Return the folder in which the artefact is, once it is made."""
        return self.root / kind / "-".join(part for part in (label, fingerprint[:_KEPT_DIGITS]) if part)

    def exists(self, kind: str, label: str, fingerprint: str) -> bool:
        """Say whether the artefact is there, without reading its files."""
        return (self.path_of(kind, label, fingerprint) / MANIFEST).is_file()

    def find(self, kind: str, label: str, fingerprint: str) -> Artefact | None:
        """Return the artefact if it is complete, after comparing every file with its manifest, once in a process.

        Hashing takes a second for about 2 GB. A file whose size or time of change differs is hashed again.

        Raises:
            StorageError: a file of it is missing or is not what was written; it is named, with what to do.
        """
        path = self.path_of(kind, label, fingerprint)
        if not path.exists():
            return None
        problem = next(problems_of(path), None)
        if problem is not None:
            raise _damaged(path, problem)
        manifest = _manifest(path)
        if manifest["fingerprint"] != fingerprint:
            raise _damaged(path, f"{path / MANIFEST} belongs to another artefact")
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

        Args:
            kind: the folder below the root.
            label: a readable name in front of the fingerprint; "" for none.
            fingerprint: what it depends on.
            build: fills the folder; earlier work of a killed process is still in it.
            waiting: is told when another process is making the same artefact.
            about: recorded in the manifest.

        Raises:
            StorageError: the disk is full or read-only, or the artefact is damaged.
        """
        path = self.path_of(kind, label, fingerprint)
        with storage_errors(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        with storage_errors(path.parent, own=False), _locked(path.with_name(path.name + ".lock"), waiting):
            found = self.find(kind, label, fingerprint)
            if found is not None:
                return found
            return self._build(path, fingerprint, build, about or {})

    def _build(self, path: Path, fingerprint: str, build: Callable[[Path], None], about: Mapping[str, Any]) -> Artefact:
        partial = path.with_name(path.name + ".partial")
        partial.mkdir(exist_ok=True)
        if (partial / MANIFEST).exists() and not any(problems_of(partial)):  # killed just before the rename
            _complete(partial, path)
            return Artefact(path, fingerprint, _manifest(path)["seconds"], reused=False)
        with _Stopwatch(partial / _SECONDS) as stopwatch:
            build(partial)
        seconds = stopwatch.seconds
        for left in partial.glob(f"{MANIFEST}*"):  # of killed attempts
            left.unlink()
        sync_files(partial)
        files = {}
        for file in sorted(
            {found for found in partial.rglob("*") if found.is_file()} - {*partial.glob(f"{_SECONDS}*")}
        ):
            files[file.relative_to(partial).as_posix()] = {"bytes": file.stat().st_size, "sha256": _hash(file)}
        write_sealed(partial / MANIFEST, {"fingerprint": fingerprint, "seconds": seconds, "files": files, **about})
        _complete(partial, path)
        _sync_folder(path.parent)
        return Artefact(path, fingerprint, seconds, reused=False)


def _complete(partial: Path, path: Path) -> None:
    """Rename a folder whose manifest is written. The time spent on it is in there, so its file has done its duty."""
    for left in partial.glob(f"{_SECONDS}*"):
        left.unlink()
    partial.replace(path)


def is_begun(partial: Path) -> bool:
    """Say whether an unfinished artefact is one that was begun here: its time or its manifest is in it, or nothing yet."""
    names = [found.name for found in partial.iterdir()]
    return not names or any(name.startswith((_SECONDS, MANIFEST)) for name in names)


def emptied(folder: Path) -> Path:
    """Return the folder of an unfinished artefact without what a killed attempt left: libraries leave temporary files."""
    for left in folder.iterdir():
        if left.is_dir():
            shutil.rmtree(left)
        elif not left.name.startswith(_SECONDS):
            left.unlink()
    return folder


def problems_of(path: Path) -> Iterator[str]:
    """Compare the files of a complete artefact with its manifest and yield what is wrong with each."""
    try:
        files = _manifest(path)["files"]
    except FileNotFoundError:
        yield f"{path / MANIFEST} is missing"
    except (StorageError, OSError, ValueError, KeyError):
        yield f"{path / MANIFEST} is not what was written"
    else:
        for name, entry in files.items():
            problem = _problem(path / name, entry)
            if problem:
                yield f"{path / name} {problem}"


class _Stopwatch:
    """Time spent on an artefact over all attempts, kept in a file every second, so that kill -9 forgets next to nothing.

    The file is there from the beginning until the manifest is: by it a folder is known as an artefact that was begun.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = 0.0
        if path.exists():
            self._before = json.loads(read_sealed(path, f"Delete {path.parent} and run again"))["seconds"]
        self._start = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def __enter__(self) -> _Stopwatch:
        self._write()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._write()

    def _keep(self) -> None:
        while not self._done.wait(1.0):
            self._write()

    def _write(self) -> None:
        with contextlib.suppress(OSError):  # a full disk is the build's to report
            write_sealed(self._path, {"seconds": self.seconds})


@contextmanager
def storage_errors(folder: Path, *, own: bool = True) -> Iterator[None]:
    """Turn a full or read-only disk into a sentence; what is done stays.

    A refusal is the disk's where only `own` writes happen, and otherwise where it is `folder` that may not be written.
    Libraries that write weights report a full disk as errors of their own, known by the system's words in them.
    """
    try:
        yield
    except OSError as error:
        refused = error.errno in _REFUSED if own else error.errno in _NOT_ALLOWED and _is_below(error.filename, folder)
        if error.errno in _FULL or refused:
            raise _unwritable(error.filename or folder, error.strerror or str(error)) from error
        raise
    except Exception as error:
        reason = next((os.strerror(number) for number in _FULL if os.strerror(number) in str(error)), None)
        if reason is not None and not isinstance(error, KdtoolError):
            raise _unwritable(folder, reason) from error
        raise


def _is_below(name: object, folder: Path) -> bool:
    return isinstance(name, str) and Path(name).absolute().is_relative_to(folder)


def _unwritable(where: object, reason: str) -> StorageError:
    remedy = "What is finished is kept; make room or choose another folder, then run the same command again"
    return StorageError(f"cannot write {where}: {reason}. {remedy}")


@contextmanager
def _locked(path: Path, waiting: Callable[[str], None]) -> Iterator[None]:
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


def sync_files(folder: Path) -> None:
    """Force all files below a folder to disk, before something is written that says they are whole."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.name.startswith(_SECONDS):
            with path.open("rb+") as file:  # Windows syncs only what may be written
                os.fsync(file.fileno())


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it; NTFS journals the rename
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(path: Path) -> dict[str, Any]:
    manifest: dict[str, Any] = json.loads(read_sealed(path / MANIFEST, ""))
    return manifest


_verified: set[tuple[str, int, int, str]] = set()
"""Path, size, time of change and SHA-256 of the files that this process has hashed: it need not hash them again."""


def _problem(file: Path, entry: Mapping[str, Any]) -> str | None:
    try:
        status = file.stat()
        if status.st_size != entry["bytes"]:
            return f"has {status.st_size} bytes instead of {entry['bytes']}"
        known = (str(file), status.st_size, status.st_mtime_ns, entry["sha256"])
        if known not in _verified:
            if _hash(file) != entry["sha256"]:
                return "is not what was written: its SHA-256 is another"
            _verified.add(known)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None


def _damaged(path: Path, problem: str) -> StorageError:
    remedy = f"Delete the folder {path} and run again to make it anew"
    others = "kdtool clean --damaged shows what else is (give it the run's --store, if it has one)"
    return StorageError(f"a stored file is damaged: {problem}. {remedy}; {others}")
