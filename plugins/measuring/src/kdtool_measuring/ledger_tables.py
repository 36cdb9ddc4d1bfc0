"""Tables of a ledger, in the file of kdtool's answers: how it is opened, and whether it is what kdtool wrote.

The check runs whenever a ledger is opened, before anything is sent. A stored answer is a `kdtool.TextAnswer` as JSON, with
the hash of that text.
"""

from __future__ import annotations

import sqlite3
from contextlib import ExitStack, closing
from pathlib import Path
from typing import NamedTuple

import kdtool

from kdtool_measuring.ledger_files import damaged_error

NEW_ANSWER = "INSERT OR REPLACE INTO answer (key, answer, sha256) VALUES (?, ?, ?)"
"""Into kdtool's own table."""
_TABLES = (
    """CREATE TABLE IF NOT EXISTS attempt (
        id INTEGER PRIMARY KEY, key TEXT NOT NULL, state TEXT NOT NULL, reserved INTEGER NOT NULL,
        cost INTEGER NOT NULL DEFAULT 0, begun REAL NOT NULL, batch TEXT, reason TEXT NOT NULL DEFAULT '',
        model TEXT NOT NULL DEFAULT '', purpose TEXT NOT NULL DEFAULT '', request TEXT NOT NULL DEFAULT '',
        thinking INTEGER NOT NULL DEFAULT 0)""",
    "CREATE INDEX IF NOT EXISTS attempt_state ON attempt (state) WHERE state IN ('open', 'unknown')",
    "CREATE INDEX IF NOT EXISTS attempt_batch ON attempt (batch) WHERE batch IS NOT NULL",
    """CREATE TABLE IF NOT EXISTS batch (
        id TEXT PRIMARY KEY, remote TEXT NOT NULL DEFAULT '', state TEXT NOT NULL, begun REAL NOT NULL)""",
)


def open_tables(path: Path) -> tuple[sqlite3.Connection, Money]:
    """Return a connection whose commits survive a power cut, and the money in the file, which is made if it is missing.

    Attempts of an earlier process that are in no batch are unknown from now on.

    Raises:
        StorageError: the file is damaged.
        UsageError: another version wrote it.
        sqlite3.Error, OSError: it cannot be read or written.
    """
    with ExitStack() as stack:
        database = stack.enter_context(closing(kdtool.open_answers(path)))
        money = require_whole(database, path)
        database.execute("PRAGMA synchronous = FULL")
        with database:
            database.execute("BEGIN IMMEDIATE")
            for statement in (*_TABLES, _LEFT):
                database.execute(statement)
        stack.pop_all()
    return database, money


_BAD_ATTEMPT = """NOT COALESCE(
    id BETWEEN 1 AND 1 << 62 AND typeof(key) = 'text' AND state IN ('open', 'answered', 'failed', 'unknown')
    AND typeof(reserved) = 'integer' AND reserved BETWEEN 0 AND 1000000000000000000
    AND typeof(cost) = 'integer' AND cost BETWEEN 0 AND 1000000000000000000
    AND typeof(begun) IN ('real', 'integer') AND abs(begun) < 100000000000
    AND typeof(batch) IN ('text', 'null') AND typeof(reason) = 'text', 0)"""
"""SQL of an attempt that no version wrote, such as one with a negative cost or of more than a million dollars."""
_BAD_BATCH = """NOT COALESCE(typeof(id) = 'text' AND typeof(remote) = 'text' AND state IN ('open', 'ended'), 0)"""
_LEFT = """UPDATE attempt SET state = 'unknown', reason = 'the process ended before an answer was recorded'
    WHERE state = 'open' AND batch IS NULL"""
_COLUMNS = {
    "attempt": "id key state reserved cost begun batch reason model purpose request thinking",
    "batch": "id remote state begun",
}
_MONEY = """SELECT COALESCE(SUM(cost), 0), COALESCE(SUM(CASE WHEN state IN ('open', 'unknown') THEN reserved END), 0),
    COALESCE(MAX(id), 0) FROM attempt"""


class Money(NamedTuple):
    """Picodollars spent and held by a ledger, and its largest id of an attempt."""

    spent: int = 0
    held: int = 0
    last: int = 0


def require_whole(database: sqlite3.Connection, path: Path) -> Money:
    """Return the money of a ledger, also of one without tables.

    Raises:
        StorageError: a page, a table or a row is damaged.
        sqlite3.Error: SQLite finds the damage itself.
    """
    (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    has_attempts = "attempt" in tables_of(database)
    problem = "" if result == "ok" else f"SQLite reports {result!r}"
    problem = problem or _foreign_tables(database) or (_bad_rows(database) if has_attempts else "")
    if problem:
        raise damaged_error(path, problem)
    return Money(*database.execute(_MONEY).fetchone()) if has_attempts else Money()


def _foreign_tables(database: sqlite3.Connection) -> str:
    for table, columns in _COLUMNS.items() if tables_of(database) & _COLUMNS.keys() else ():  # a new file has none
        lacking = {*columns.split()} - {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        if lacking:
            return f"table {table!r} lacks {', '.join(sorted(lacking))}"
    return ""


def _bad_rows(database: sqlite3.Connection) -> str:
    for table, bad in (("attempt", _BAD_ATTEMPT), ("batch", _BAD_BATCH)):
        row = database.execute(f"SELECT rowid FROM {table} WHERE {bad} LIMIT 1").fetchone()  # noqa: S608 - SQL of ours
        if row is not None:
            return f"row {row[0]} of table {table!r} has values that kdtool does not write"
    return ""


def tables_of(database: sqlite3.Connection) -> set[str]:
    """Return the names of the tables in a file."""
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
