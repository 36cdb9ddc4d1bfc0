"""Mend a damaged ledger: a new file with every row that can be read, and a reservation for the money that is missing."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_asking._errors import storage_errors
from kdtool_asking._lock import lock_ledger
from kdtool_asking._seal import Seal, Sealed, read_seal
from kdtool_asking._stored_answers import is_answer, is_unchanged
from kdtool_asking._tables import ADDED, NEW_ANSWER, NEW_COUNT, create_tables
from kdtool_asking._whole import BAD_ATTEMPT, BAD_BATCH, require_whole, tables_of

__all__ = ["Mended", "mend_ledger"]

_ATTEMPT = ("id", "key", "state", "reserved", "cost", "begun", "batch", "reason")
_BATCH = ("id", "remote", "state", "begun")
_LOST = """INSERT INTO attempt (id, key, state, reserved, begun, reason)
    VALUES (?, '', 'unknown', ?, ?, 'missing from the ledger when it was mended')"""


@dataclass(frozen=True)
class Mended:
    """Numbers of answers and attempts that were read, the picodollars counted for the others, and the damaged file."""

    answers: int
    attempts: int
    missing: int
    damaged: Path


def mend_ledger(path: Path, missing: int | None = None) -> Mended | None:
    """Replace a damaged ledger; return None, and change nothing, if it is whole.

    The damaged file is kept next to the new one. Missing money becomes an attempt with an unknown outcome, which counts
    against the budget. Answers that cannot be read are asked for again.

    Args:
        path: the ledger, which may be lost as long as its seal is there.
        missing: picodollars that are missing. None takes them from the seal.

    Raises:
        UsageError: there is no ledger; or its seal is lost, too, and `missing` is None. A file of free answers needs none.
        LockedError: a run uses it.
        StorageError: the disk cannot be written.
    """
    with storage_errors(path), lock_ledger(path):
        sealed = read_seal(path)
        if sealed is None and not path.exists():
            raise kdtool.UsageError(f"there is no ledger at {path}; name the file that the error names")
        if path.exists() and _is_whole(path, sealed):
            return None
        if sealed is None and missing is None and not _is_free(path):
            raise kdtool.UsageError(
                f"the seal of {path}, which counts its money, is lost; look up the amount spent in the service's console, "
                "and state the part that the ledger lacks with --missing-usd (0 for nothing)"
            )
        return _replace(path, sealed or Sealed(), missing)


def _is_whole(path: Path, sealed: Sealed | None) -> bool:
    try:
        with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
            require_whole(database, path, sealed)
            return all(_is_good(*row) for row in database.execute("SELECT answer, sha256 FROM answer"))
    except kdtool.StorageError:
        return False


def _is_free(path: Path) -> bool:
    """Return whether a file shows that it has answers of teachers that cost nothing, and no ledger."""
    try:
        with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
            return tables_of(database) == {"answer"}
    except kdtool.StorageError:
        return False


def _is_good(answer: object, digest: object) -> bool:
    return is_unchanged(answer, digest) and is_answer(str(answer))


def _replace(path: Path, sealed: Sealed, missing: int | None) -> Mended:
    new, damaged = path.with_name(f"{path.name}.new"), _free_name(path)
    new.unlink(missing_ok=True)
    with closing(kdtool.open_answers(new)) as database:
        database.execute("PRAGMA synchronous = FULL")
        database.execute("BEGIN")
        create_tables(database)
        if path.exists():
            _copy_rows(path, database)
        money = require_whole(database, new, Sealed())
        if missing is None:
            missing = max(0, sealed.picodollars - money.sealed.picodollars)
        if missing:
            database.execute(_LOST, (money.last + 1, missing, time.time()))
        commits = sealed.commits + 1
        database.execute(NEW_COUNT, (commits,))
        database.execute("COMMIT")
        answers, attempts = (
            database.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]  # noqa: S608 - names of ours
            for table in ("answer", "attempt")
        )
    for ending in ("-wal", "-shm", ""):  # a log that is left would be applied to the new file
        with suppress(FileNotFoundError):
            path.with_name(path.name + ending).replace(damaged.with_name(damaged.name + ending))
    new.replace(path)
    with closing(Seal(path)) as seal:
        seal.write(Sealed(commits, money.sealed.picodollars + missing))
    return Mended(answers, attempts - bool(missing), missing, damaged)


def _free_name(path: Path) -> Path:
    names = (path.with_name(f"{path.name}.damaged-{number}") for number in range(1, 10**6))
    return next(name for name in names if not name.exists())


def _copy_rows(path: Path, database: sqlite3.Connection) -> None:
    """Copy the rows that can be read and are valid, without triggers and foreign tables."""
    with ExitStack() as stack:
        stack.enter_context(suppress(sqlite3.Error))
        address = f"{path.absolute().as_uri()}?mode=ro"
        old = stack.enter_context(closing(sqlite3.connect(address, uri=True)))
        old.text_factory = lambda content: content.decode(errors="replace")  # what it changes has another hash
        for key, answer, digest in _rows(old, "answer", ("key", "answer", "sha256")):
            if isinstance(key, str) and _is_good(answer, digest):
                database.execute(NEW_ANSWER, (key, answer, digest))
        for table, expected, bad in (("attempt", _ATTEMPT, BAD_ATTEMPT), ("batch", _BATCH, BAD_BATCH)):
            known = {row[1] for row in old.execute(f"PRAGMA table_info({table})")}
            columns = (*expected, *(name for name in ADDED if name in known))
            marks = ", ".join("?" * len(columns))
            for row in _rows(old, table, columns):
                with suppress(sqlite3.IntegrityError):
                    database.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)  # noqa: S608
            database.execute(f"DELETE FROM {table} WHERE {bad}")  # noqa: S608 - names of ours


def _rows(database: sqlite3.Connection, table: str, columns: tuple[str, ...]) -> Iterator[tuple[object, ...]]:
    """Yield the rows of a table from both ends, each up to a page that cannot be read."""
    last = None
    for order in ("", "DESC"):
        query = f"SELECT rowid, {', '.join(columns)} FROM {table} ORDER BY rowid {order}"  # noqa: S608 - names of ours
        with suppress(sqlite3.DatabaseError):
            for number, *row in database.execute(query):
                if order and last is not None and number <= last:
                    return
                last = last if order else number
                yield tuple(row)
