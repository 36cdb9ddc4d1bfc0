"""Tables of a ledger, and how a file is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool

__all__ = ["connect", "create_tables", "storage_errors"]

VERSION = 1
"""Format of the file, in `PRAGMA user_version`."""
_SECONDS_FOR_READERS = 60
_TABLES = (
    """CREATE TABLE IF NOT EXISTS attempt (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, reserved INTEGER NOT NULL,
        cost INTEGER NOT NULL DEFAULT 0, begun REAL NOT NULL, batch TEXT, reason TEXT NOT NULL DEFAULT '')""",
    "CREATE INDEX IF NOT EXISTS attempt_state ON attempt (state) WHERE state IN ('open', 'unknown')",
    "CREATE INDEX IF NOT EXISTS attempt_batch ON attempt (batch) WHERE batch IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS result (
        key TEXT PRIMARY KEY, attempt INTEGER NOT NULL, answer TEXT NOT NULL, sha256 TEXT NOT NULL) WITHOUT ROWID""",
    """CREATE TABLE IF NOT EXISTS batch (
        id TEXT PRIMARY KEY, remote TEXT NOT NULL DEFAULT '', state TEXT NOT NULL, begun REAL NOT NULL)""",
    f"PRAGMA user_version = {VERSION}",
)


def connect(path: Path, *, read_only: bool = False) -> sqlite3.Connection:
    """Return a connection for any thread, in autocommit mode."""
    address = f"{path.absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    return sqlite3.connect(
        address, uri=True, timeout=_SECONDS_FOR_READERS, isolation_level=None, check_same_thread=False
    )


def create_tables(database: sqlite3.Connection, path: Path) -> None:
    """Make the file a ledger if it is new.

    Raises:
        UsageError: it is the ledger of another version.
    """
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = FULL")
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if version not in {0, VERSION}:
        raise kdtool.UsageError(
            f"{path} is a ledger of format {version}, but this version of kdtool-ledger reads format {VERSION}: install the "
            "version that wrote it, or name another file by `ledger`"
        )
    with database:
        database.execute("BEGIN IMMEDIATE")
        for statement in _TABLES:
            database.execute(statement)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise errors of the disk or of SQLite as a StorageError that names the file."""
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise kdtool.StorageError(
            f"the ledger {path} cannot be used: {error}; free space or allow writing there, and run again: everything that "
            "was paid for and recorded is kept"
        ) from error
