"""Tables of a ledger, in the file of kdtool's answers, and how the file is opened."""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import kdtool

from kdtool_asking._seal import Seal, Sealed, read_seal
from kdtool_asking._whole import Money, require_whole

__all__ = [
    "ABOUT",
    "ADDED",
    "NEW_ANSWER",
    "NEW_COUNT",
    "columns_about",
    "create_tables",
    "open_tables",
    "thinking_tokens",
]

NEW_ANSWER = "INSERT OR REPLACE INTO answer (key, answer, sha256) VALUES (?, ?, ?)"
"""Into kdtool's own table."""
NEW_COUNT = "INSERT OR REPLACE INTO seal (id, commits) VALUES (1, ?)"
ABOUT = ("model", "purpose", "request")
"""Columns of `attempt` that describe the request."""
ADDED = {**dict.fromkeys(ABOUT, "TEXT NOT NULL DEFAULT ''"), "thinking": "INTEGER NOT NULL DEFAULT 0"}
"""Columns of `attempt` that files of earlier versions get when they are opened, with their types."""
_TABLES = (
    """CREATE TABLE IF NOT EXISTS attempt (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, reserved INTEGER NOT NULL,
        cost INTEGER NOT NULL DEFAULT 0, begun REAL NOT NULL, batch TEXT, reason TEXT NOT NULL DEFAULT '')""",
    "CREATE INDEX IF NOT EXISTS attempt_state ON attempt (state) WHERE state IN ('open', 'unknown')",
    "CREATE INDEX IF NOT EXISTS attempt_batch ON attempt (batch) WHERE batch IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS batch (
        id TEXT PRIMARY KEY, remote TEXT NOT NULL DEFAULT '', state TEXT NOT NULL, begun REAL NOT NULL)""",
    "CREATE TABLE IF NOT EXISTS seal (id INTEGER PRIMARY KEY, commits INTEGER NOT NULL)",
)


def open_tables(path: Path) -> tuple[sqlite3.Connection, Money, Seal]:
    """Return a connection whose commits survive a power cut, the money in the file, and its seal, made if it is new.

    Raises:
        StorageError: the file is damaged, or commits are missing from it.
        UsageError: another version wrote it.
        sqlite3.Error, OSError: it cannot be read or written.
    """
    with ExitStack() as stack:
        sealed = read_seal(path)
        database = stack.enter_context(closing(kdtool.open_answers(path)))
        money = require_whole(database, path, sealed)
        database.execute("PRAGMA synchronous = FULL")
        seal = stack.enter_context(closing(Seal(path)))
        if sealed is None:
            seal.write(money.sealed)
        counted = Sealed(money.sealed.commits + 1, money.sealed.picodollars)
        with database:
            database.execute("BEGIN IMMEDIATE")
            create_tables(database)
            database.execute(NEW_COUNT, (counted.commits,))
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # a copy without log and seal shows that it had a seal
        seal.write(counted)
        stack.pop_all()
    return database, replace(money, sealed=counted), seal


def create_tables(database: sqlite3.Connection) -> None:
    """Create the missing tables and columns of a ledger, within the caller's transaction."""
    for statement in _TABLES:
        database.execute(statement)
    for name in sorted(set(ADDED) - _columns(database)):
        database.execute(f"ALTER TABLE attempt ADD COLUMN {name} {ADDED[name]}")


def columns_about(database: sqlite3.Connection) -> str:
    """Return SQL for model, purpose and request of attempts; they are empty in a file that an earlier version wrote."""
    known = _columns(database)
    return ", ".join(name if name in known else f"'' AS {name}" for name in ABOUT)


def thinking_tokens(database: sqlite3.Connection) -> int:
    """Return the tokens of thinking in all answers; 0 in a file that an earlier version wrote."""
    query = "SELECT COALESCE(SUM(thinking), 0) FROM attempt"
    return int(database.execute(query).fetchone()[0]) if "thinking" in _columns(database) else 0


def _columns(database: sqlite3.Connection) -> set[str]:
    return {row[1] for row in database.execute("PRAGMA table_info(attempt)")}
