"""A ledger from outside: its summary, also while a run writes it, and the repair of a damaged one.

Repair makes a new file with every row that can be read, and a reservation for the money that is missing.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

import kdtool

from kdtool_measuring.ledger import About
from kdtool_measuring.ledger_files import Seal, Sealed, damaged_error, lock_ledger, read_seal, seal_of, storage_errors
from kdtool_measuring.ledger_tables import (
    ADDED,
    BAD_ATTEMPT,
    BAD_BATCH,
    NEW_ANSWER,
    NEW_COUNT,
    columns_about,
    create_tables,
    is_answer,
    is_unchanged,
    require_whole,
    tables_of,
    thinking_tokens,
)


@dataclass(frozen=True)
class Unanswered:
    """An attempt without an answer: `begun` in seconds since 1970, `reserved` picodollars, and why.

    One whose `state` is `open` is under way, or was when its process was killed; `unknown` was sent and gets no answer.
    """

    id: int
    key: str
    state: str
    begun: float
    reserved: int
    reason: str
    about: About


@dataclass(frozen=True)
class Summary:
    """Counts and picodollars of a ledger.

    `attempts` counts them by state, and `unanswered` lists those without an answer that are in no batch. `purposes` maps
    `About.purpose` to the number of answers and their cost.
    """

    answers: int
    spent: int
    held: int
    attempts: dict[str, int]
    open_batches: int
    unanswered: tuple[Unanswered, ...]
    purposes: dict[str, tuple[int, int]]
    thinking: int = 0
    """Tokens of thinking in all answers; they are part of the output that was paid for."""

    @property
    def unknown(self) -> tuple[Unanswered, ...]:
        """Attempts that were sent and may have been charged."""
        return tuple(attempt for attempt in self.unanswered if attempt.state == "unknown")


def read_summary(path: Path) -> Summary:
    """Return a summary of a ledger without disturbing the process that writes it.

    Raises:
        StorageError: there is no such file, it contains no answers, is damaged, or lacks commits that its seal counts.
        UsageError: another version wrote it.
    """
    with storage_errors(path), ExitStack() as stack:
        sealed = read_seal(path)
        database = stack.enter_context(closing(kdtool.open_answers(path, read_only=True)))
        database.execute("BEGIN")  # one moment for all that follows
        money = require_whole(database, path, sealed)
        tables = tables_of(database)
        answers: int = database.execute("SELECT COUNT(*) FROM answer").fetchone()[0] if tables else 0
        if "attempt" not in tables:
            return Summary(answers, 0, 0, {}, 0, (), {})  # all of teachers that cost nothing
        states = database.execute("SELECT state, COUNT(*) FROM attempt GROUP BY state")
        about = columns_about(database)
        unanswered = database.execute(
            f"SELECT id, key, state, begun, reserved, reason, {about} FROM attempt "  # noqa: S608 - column names of ours
            "WHERE state = 'unknown' OR (state = 'open' AND batch IS NULL) ORDER BY id"
        )
        purposes = database.execute(
            "SELECT purpose, COUNT(*), SUM(cost) FROM "  # noqa: S608 - column names of ours
            f"(SELECT cost, {about} FROM attempt WHERE state = 'answered') GROUP BY purpose ORDER BY purpose"
        )
        return Summary(
            answers=answers,
            spent=money.spent,
            held=money.held,
            attempts=dict(states.fetchall()),
            open_batches=database.execute("SELECT COUNT(*) FROM batch WHERE state = 'open'").fetchone()[0],
            unanswered=tuple(
                Unanswered(number, key, state, begun, reserved, reason, About(*names))
                for number, key, state, begun, reserved, reason, *names in unanswered
            ),
            purposes={name: (count, cost) for name, count, cost in purposes},
            thinking=thinking_tokens(database),
        )


def check_ledger(path: Path) -> None:
    """Raise as `read_summary` if a ledger is damaged or lost; do nothing if there is neither a file nor a seal of it."""
    if path.exists():
        read_summary(path)
    elif seal_of(path).exists():
        raise damaged_error(path, "it is missing, but its seal is there")


def has_answer(path: Path, keys: Iterable[str]) -> Iterator[bool]:
    """Yield for each key whether its answer is stored; False if there is no file. Raises as `read_summary`."""
    if not path.exists():
        yield from (False for _ in keys)
        return
    with storage_errors(path), closing(kdtool.open_answers(path, read_only=True)) as database:
        for key in keys:
            yield database.execute("SELECT 1 FROM answer WHERE key = ?", (key,)).fetchone() is not None


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
        return _replace_ledger(path, sealed or Sealed(), missing)


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


def _replace_ledger(path: Path, sealed: Sealed, missing: int | None) -> Mended:
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
