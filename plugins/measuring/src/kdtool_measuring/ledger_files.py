"""Lock and errors of a ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool
from filelock import FileLock, Timeout

_OF_THE_DISK = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_PERM,
    sqlite3.SQLITE_READONLY,
}
"""SQLite's primary result codes that a whole file can cause, too."""


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise errors of the disk or of SQLite as a StorageError, of a second writer as a LockedError, with a remedy."""
    try:
        yield
    except (sqlite3.Error, OSError, kdtool.StorageError) as error:
        cause = error.__cause__ if isinstance(error, kdtool.StorageError) else error
        if isinstance(cause, sqlite3.IntegrityError):  # an id that this process gave is in the file already
            raise kdtool.LockedError(
                f"another run writes the ledger {path}, too: {path.name}.lock was deleted while both ran; wait for that run "
                "and run again: everything that was paid for and recorded is kept"
            ) from error
        if isinstance(cause, sqlite3.Error) and _is_damage(cause):
            raise damaged_error(path, str(cause)) from error
        if isinstance(error, kdtool.StorageError):
            raise
        raise kdtool.StorageError(
            f"the ledger {path} cannot be used: {error}; free space or allow writing there, and run again: everything that "
            "was paid for and recorded is kept"
        ) from error


def damaged_error(path: Path, problem: str) -> kdtool.StorageError:
    """Return the error for a ledger that is not as kdtool left it."""
    return kdtool.StorageError(
        f"the ledger {path} is damaged: {problem}; delete it and {path.name}-wal, and restore it from a backup. Without "
        "one, answers are bought again, and the budget counts from zero"
    )


def _is_damage(error: sqlite3.Error) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF not in _OF_THE_DISK


@contextmanager
def lock_ledger(path: Path) -> Iterator[None]:
    """Hold the lock of a ledger, so that one process at a time changes it; its folder is created.

    Raises:
        LockedError: another process, or another user in this one, has locked it.
        StorageError: a directory is in its place.
        OSError: the folder cannot be written.
    """
    if path.is_dir():
        raise kdtool.StorageError(f"{path} is a directory; expected the file of a ledger; name a file by `ledger`")
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(path.with_name(path.name + ".lock")).acquire(timeout=0.5)
    except Timeout:
        raise kdtool.LockedError(
            f"the ledger {path} is in use by another run; wait for it, or name another file by `ledger`"
        ) from None
    with lock:
        yield
