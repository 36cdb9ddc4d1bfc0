"""The sweep's own folder: one process works in it, and its files are never half written."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool
from filelock import FileLock, Timeout

__all__ = ["hold", "write"]

_SECONDS = 0.5
"""Seconds to wait for the folder."""


@contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the folder; the lock of a killed process is free by itself.

    Raises:
        LockedError: another sweep works in it.
        StorageError: it cannot be written.
    """
    lock = FileLock(folder / ".lock")
    with _storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=_SECONDS)
        except Timeout as error:
            text = f"another sweep works in {folder}; wait for it, or choose another --out"
            raise kdtool.LockedError(text) from error
    try:
        yield
    finally:
        lock.release()


def write(path: Path, text: str) -> None:
    """Write a temporary file next to `path` and rename it.

    Raises:
        StorageError: it cannot be written.
    """
    beside = path.with_name(f"{path.name}.writing")
    with _storage_errors(path.parent):
        beside.write_text(text, encoding="utf-8", newline="\n")
        beside.replace(path)


@contextmanager
def _storage_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        remedy = "make room or choose another --out, then run the same command again; what is finished is kept"
        raise kdtool.StorageError(f"cannot write {folder}: {error.strerror or error}; {remedy}") from error
