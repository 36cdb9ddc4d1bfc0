"""Tables of a ledger, beside the answers in kdtool's file, and how the file is opened."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool

__all__ = ["NEW_ANSWER", "columns_about", "open_tables", "storage_errors"]

NEW_ANSWER = "INSERT OR REPLACE INTO answer (key, answer, sha256) VALUES (?, ?, ?)"
"""Into kdtool's own table."""
_ABOUT = ("model", "purpose", "request")
"""Columns of `attempt` on what is asked; files of earlier versions get them when they are opened."""
_TABLES = (
    "PRAGMA synchronous = FULL",
    """CREATE TABLE IF NOT EXISTS attempt (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, reserved INTEGER NOT NULL,
        cost INTEGER NOT NULL DEFAULT 0, begun REAL NOT NULL, batch TEXT, reason TEXT NOT NULL DEFAULT '')""",
    "CREATE INDEX IF NOT EXISTS attempt_state ON attempt (state) WHERE state IN ('open', 'unknown')",
    "CREATE INDEX IF NOT EXISTS attempt_batch ON attempt (batch) WHERE batch IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS batch (
        id TEXT PRIMARY KEY, remote TEXT NOT NULL DEFAULT '', state TEXT NOT NULL, begun REAL NOT NULL)""",
)


def open_tables(path: Path) -> sqlite3.Connection:
    """Return a connection whose commits survive a power cut. Raises as `kdtool.open_answers`."""
    database = kdtool.open_answers(path)
    try:
        for statement in _TABLES:
            database.execute(statement)
        for name in sorted(set(_ABOUT) - _columns(database)):
            database.execute(f"ALTER TABLE attempt ADD COLUMN {name} TEXT NOT NULL DEFAULT ''")
    except BaseException:
        database.close()
        raise
    return database


def columns_about(database: sqlite3.Connection) -> str:
    """Return SQL for model, purpose and request of attempts; they are empty in a file that an earlier version wrote."""
    known = _columns(database)
    return ", ".join(name if name in known else f"'' AS {name}" for name in _ABOUT)


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_info(attempt)")}


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
