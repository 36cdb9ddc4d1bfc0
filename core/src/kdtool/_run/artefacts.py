"""Artefacts: folders that are complete or absent.

An artefact is made in `<name>.partial`, which carries its fingerprint, so that a killed stage continues in it. When it is
whole its files are synced, a manifest of sizes and SHA-256 is written, and the folder is renamed. A second process that
makes the same artefact waits and takes the first's.
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

__all__ = ["Artefact", "Artefacts", "storage_errors", "write_beside"]

MANIFEST = "manifest.json"
_SECONDS = ".seconds"
_KEPT_DIGITS = 16
_FULL = {errno.ENOSPC, errno.EROFS, getattr(errno, "EDQUOT", errno.ENOSPC)}
_REFUSED = {errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST}


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
        """Return the artefact if it is complete.

        Raises:
            StorageError: a file of it is missing or has another size than it had.
        """
        path = self.path_of(kind, label, fingerprint)
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise _damaged(path / MANIFEST, "cannot be read") from error
        for name, entry in manifest["files"].items():
            file = path / name
            if not file.is_file() or file.stat().st_size != entry["bytes"]:
                raise _damaged(file, "is missing" if not file.is_file() else f"is not {entry['bytes']} bytes long")
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
            self._forget_others(path, label)
            return self._build(path, fingerprint, build, about or {})

    def _forget_others(self, path: Path, label: str) -> None:
        """Delete partial folders of the same label: nothing can continue in them any more."""
        for other in path.parent.glob(f"{label}-*.partial") if label else ():
            if other.name != path.name + ".partial" and len(other.name) == len(path.name) + len(".partial"):
                shutil.rmtree(other, ignore_errors=True)

    def _build(self, path: Path, fingerprint: str, build: Callable[[Path], None], about: Mapping[str, Any]) -> Artefact:
        partial = path.with_name(path.name + ".partial")
        partial.mkdir(exist_ok=True)
        with _Stopwatch(partial / _SECONDS) as stopwatch:
            build(partial)
        seconds = stopwatch.seconds
        for file in partial.glob(f"{_SECONDS}*"):
            file.unlink()
        files = {}
        for file in sorted(found for found in partial.rglob("*") if found.is_file() and found.name != MANIFEST):
            files[file.relative_to(partial).as_posix()] = {"bytes": file.stat().st_size, "sha256": _hash_and_sync(file)}
        manifest = {"fingerprint": fingerprint, "seconds": seconds, "files": files, **about}
        write_beside(partial / MANIFEST, json.dumps(manifest, indent=1))
        partial.replace(path)
        _sync_folder(path.parent)
        return Artefact(path, fingerprint, seconds, reused=False)


class _Stopwatch:
    """Time spent on an artefact over all attempts, kept in a file every second, so that kill -9 forgets next to nothing."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._before = float(path.read_text(encoding="utf-8")) if path.exists() else 0.0
        self._start = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._keep, daemon=True)

    @property
    def seconds(self) -> float:
        return self._before + time.monotonic() - self._start

    def __enter__(self) -> _Stopwatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            write_beside(self._path, repr(self.seconds))

    def _keep(self) -> None:
        while not self._done.wait(1.0):
            with contextlib.suppress(OSError):  # a full disk is the build's to report
                write_beside(self._path, repr(self.seconds))


@contextmanager
def storage_errors(folder: Path, *, own: bool = True) -> Iterator[None]:
    """Turn a full or read-only disk into a sentence, and where only `own` writes happen any refusal; what is done stays.

    Libraries that write weights report a full disk as errors of their own, known by the system's words in them.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL or (own and error.errno in _REFUSED):
            raise _unwritable(error.filename or folder, error.strerror or str(error)) from error
        raise
    except Exception as error:
        if os.strerror(errno.ENOSPC) in str(error) and not isinstance(error, KdtoolError):
            raise _unwritable(folder, os.strerror(errno.ENOSPC)) from error
        raise


def _unwritable(where: object, reason: str) -> StorageError:
    remedy = "What is finished is kept; make room or choose another folder, then run the same command again"
    return StorageError(f"cannot write {where}: {reason}. {remedy}")


def write_beside(path: Path, text: str) -> None:
    """Write a small file beside its place, sync it, and rename it, so that it is never half there."""
    beside = path.with_name(path.name + ".writing")
    with beside.open("w", encoding="utf-8", newline="\n") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)


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


def _hash_and_sync(path: Path) -> str:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(path: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it; NTFS journals the rename
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _damaged(path: Path, how: str) -> StorageError:
    return StorageError(f"the stored file {path} {how}: delete the folder {path.parent} and run again to make it anew")
