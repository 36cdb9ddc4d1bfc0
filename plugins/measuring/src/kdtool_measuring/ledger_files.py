"""Files next to a ledger, and errors of all of them: its lock, its seal, and spare room on the disk.

The lock lets one process at a time change a ledger. The seal shows whether commits are missing from the database: a
write-ahead log that is lost or cut after a kill leaves a database that is valid and older, and only another file can show
it. The spare room is kept for answers under way: they are paid for, and must be recorded when the disk is full.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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


@contextmanager
def lock_ledger(path: Path) -> Iterator[None]:
    """Hold the lock of a ledger; its folder is created.

    Raises:
        LockedError: another process, or another user in this one, has locked it.
        StorageError: a directory is in the place of one of its files.
        OSError: the folder cannot be written.
    """
    beside = [path.with_name(path.name + ending) for ending in (".lock", ".spare", ".seal")]
    refuse_directories(path, *beside)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(beside[0])
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        raise kdtool.LockedError(
            f"the ledger {path} is in use by another run; wait for it, or name another file by `ledger`"
        ) from None
    try:
        yield
    finally:
        lock.release()


_SLOT = 512
"""Bytes of one record, a sector of a disk; records take turns in two slots, so that a torn one leaves the other."""
_sync = getattr(os, "fdatasync", os.fsync)


@dataclass(frozen=True)
class Sealed:
    """Number of commits to a ledger, and the picodollars that it has spent and reserved."""

    commits: int = 0
    picodollars: int = 0


class Seal:
    """The open seal of a ledger.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, ledger: Path) -> None:
        self._file = os.open(seal_of(ledger), os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o600)

    def write(self, sealed: Sealed, *, sync: bool = True) -> None:
        """Replace the older record; it survives a killed process, and a power cut with `sync`."""
        os.lseek(self._file, _SLOT * (sealed.commits % 2), os.SEEK_SET)
        os.write(self._file, kdtool.seal_line(asdict(sealed)).ljust(_SLOT))
        if sync:
            _sync(self._file)

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def seal_of(ledger: Path) -> Path:
    """Return the path of a ledger's seal."""
    return ledger.with_name(ledger.name + ".seal")


def read_seal(ledger: Path) -> Sealed | None:
    """Return the latest record of a ledger's seal; None if there is none that is whole.

    Raises:
        OSError: it cannot be read.
    """
    try:
        content = seal_of(ledger).read_bytes()
    except FileNotFoundError:
        return None
    slots = (content[start : start + _SLOT].rstrip(b" ") for start in range(0, 2 * _SLOT, _SLOT))
    records = [Sealed(**fields) for fields in map(kdtool.unseal_line, slots) if fields is not None]
    return max(records, key=lambda sealed: sealed.commits, default=None)


_SPARE_BYTES = 16 * 2**20
"""A thousand long answers, with the pages that they change."""
_SPARE_BLOCK = 2**16


class Spare:
    """A file next to the ledger that exists as long as the ledger is open.

    Raises:
        OSError: the disk has no room for it.
    """

    def __init__(self, ledger: Path) -> None:
        self._path = ledger.with_name(ledger.name + ".spare")
        try:
            with self._path.open("wb") as file:
                if hasattr(os, "posix_fallocate"):
                    os.posix_fallocate(file.fileno(), 0, _SPARE_BYTES)
                else:
                    for _ in range(_SPARE_BYTES // _SPARE_BLOCK):
                        file.write(bytes(_SPARE_BLOCK))
        except OSError:
            self.free()
            raise

    def free(self) -> bool:
        """Delete the file; return whether it was there."""
        try:
            self._path.unlink()
        except FileNotFoundError:
            return False
        return True
