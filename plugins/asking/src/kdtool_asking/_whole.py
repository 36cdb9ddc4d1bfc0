"""Is a ledger what kdtool wrote? Asked whenever one is opened, before anything is sent."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from pathlib import Path

from kdtool_asking._errors import damaged_error
from kdtool_asking._seal import Sealed, read_seal

__all__ = ["BAD_ATTEMPT", "BAD_BATCH", "Money", "require_whole", "tables_of"]

BAD_ATTEMPT = """NOT COALESCE(
    id BETWEEN 1 AND 1 << 62 AND typeof(key) = 'text' AND state IN ('open', 'answered', 'failed', 'unknown')
    AND typeof(reserved) = 'integer' AND reserved BETWEEN 0 AND 1000000000000000000
    AND typeof(cost) = 'integer' AND cost BETWEEN 0 AND 1000000000000000000
    AND typeof(begun) IN ('real', 'integer') AND abs(begun) < 100000000000
    AND typeof(batch) IN ('text', 'null') AND typeof(reason) = 'text', 0)"""
"""SQL of an attempt that no version wrote, such as one with a negative cost or of more than a million dollars."""
BAD_BATCH = """NOT COALESCE(typeof(id) = 'text' AND typeof(remote) = 'text' AND state IN ('open', 'ended'), 0)"""
_COLUMNS = {
    "answer": {"key", "answer", "sha256"},
    "attempt": {"id", "key", "state", "reserved", "cost", "begun", "batch", "reason"},
    "batch": {"id", "remote", "state", "begun"},
}
"""Those of the first version; later ones are added when a file is opened."""
_MONEY = """SELECT COALESCE(SUM(cost), 0), COALESCE(SUM(CASE WHEN state IN ('open', 'unknown') THEN reserved END), 0),
    COALESCE(MAX(id), 0) FROM attempt"""


@dataclass(frozen=True)
class Money:
    """Picodollars spent and held by a ledger, its largest id of an attempt, and the seal that its state deserves."""

    spent: int
    held: int
    last: int
    sealed: Sealed


def require_whole(database: sqlite3.Connection, path: Path, sealed: Sealed | None) -> Money:
    """Return the money of a ledger, also of one without tables.

    Args:
        database: a connection to the file.
        path: the file.
        sealed: its seal, read before the transaction began: a commit comes before its seal.

    Raises:
        StorageError: a page, a table or a row is damaged, or commits are missing.
        sqlite3.Error: SQLite finds the damage itself.
    """
    (result,) = database.execute("PRAGMA quick_check(1)").fetchone()
    problem = "" if result == "ok" else f"SQLite reports {result!r}"
    problem = problem or _foreign_tables(database) or (_bad_rows(database) if "attempt" in tables_of(database) else "")
    if problem:
        raise damaged_error(path, problem)
    money = _money_of(database)
    if problem := _missing_commits(path, money.sealed, sealed or read_seal(path)):
        raise damaged_error(path, problem)
    return money


def _money_of(database: sqlite3.Connection) -> Money:
    tables = tables_of(database)
    spent, held, last = database.execute(_MONEY).fetchone() if "attempt" in tables else (0, 0, 0)
    query = "SELECT COALESCE(MAX(commits), 0) FROM seal WHERE typeof(commits) = 'integer'"
    (commits,) = database.execute(query).fetchone() if "seal" in tables else (0,)
    return Money(spent, held, last, Sealed(commits, spent + held))


def _missing_commits(path: Path, stored: Sealed, sealed: Sealed | None) -> str:
    if sealed is None:
        return "its seal is missing, which shows whether money is missing" if stored.commits else ""
    if stored.commits >= sealed.commits and (
        stored.commits > sealed.commits or stored.picodollars >= sealed.picodollars
    ):
        return ""
    lost = max(0, sealed.picodollars - stored.picodollars) / 1e12
    return (
        f"${lost:,.4f} of ${sealed.picodollars / 1e12:,.4f} spent or reserved are missing, and "
        f"{sealed.commits - stored.commits:,} of {sealed.commits:,} commits, as after the loss of {path.name}-wal"
    )


def _foreign_tables(database: sqlite3.Connection) -> str:
    for kind, name in database.execute("SELECT type, name FROM sqlite_master WHERE type IN ('trigger', 'view')"):
        return f"{kind} {name!r} is not one of kdtool's"
    tables = tables_of(database)  # none in a file that is being made
    for table, columns in _COLUMNS.items():
        present = {row[1] for row in database.execute(f"PRAGMA table_info({table})")}
        if (tables if table == "answer" else tables & {"attempt", "batch"}) and not columns <= present:
            return f"table {table!r} lacks {', '.join(sorted(columns - present))}"
    return ""


def _bad_rows(database: sqlite3.Connection) -> str:
    for table, bad in (("attempt", BAD_ATTEMPT), ("batch", BAD_BATCH)):
        row = database.execute(f"SELECT rowid FROM {table} WHERE {bad} LIMIT 1").fetchone()  # noqa: S608 - SQL of ours
        if row is not None:
            return f"row {row[0]} of table {table!r} has values that kdtool does not write"
    return ""


def tables_of(database: sqlite3.Connection) -> set[str]:
    """Return the names of the tables in a file."""
    return {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
