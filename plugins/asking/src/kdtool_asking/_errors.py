"""Errors of a ledger: a disk that cannot be written, and a file that is not what kdtool wrote."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool

__all__ = ["damaged_error", "refuse_directories", "storage_errors"]

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
    """Raise errors of the disk or of SQLite as a StorageError that names the file, with the remedy for its kind."""
    try:
        yield
    except (sqlite3.Error, OSError, kdtool.StorageError) as error:
        cause = error.__cause__ if isinstance(error, kdtool.StorageError) else error
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
        f"the ledger {path} is damaged: {problem}; expected are {path.name}, {path.name}-wal and {path.name}.seal as kdtool "
        f"left them. Put back what was lost, or run `kdtool data mend {path}`: it keeps what can be read, moves the rest "
        "aside, and counts missing money against the budget"
    )


def refuse_directories(*files: Path) -> None:
    """Raise a StorageError if a directory is where one of a ledger's files belongs."""
    for file in files:
        if file.is_dir():
            raise kdtool.StorageError(
                f"{file} is a directory, but a ledger keeps a file there; move the directory away, and run again"
            )


def _is_damage(error: sqlite3.Error) -> bool:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    return code & 0xFF not in _OF_THE_DISK
