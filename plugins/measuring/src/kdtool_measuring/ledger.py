"""The ledger: answers that were paid for, attempts, batches, and a budget that reservations never exceed.

A thread writes its rows: those that arrive during one commit are in the next, so that many writers share one fsync.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import NamedTuple

import kdtool
from kdtool._run.answers import read_answer, text_digest

from kdtool_measuring.ledger_files import damaged_error, lock_ledger, storage_errors
from kdtool_measuring.ledger_tables import NEW_ANSWER, open_tables

_INTENT = """INSERT INTO attempt (id, key, state, reserved, begun, batch, model, purpose, request)
    VALUES (?, ?, 'open', ?, ?, ?, ?, ?, ?)"""


@dataclass(frozen=True)
class About:
    """A request as people know it: the model, the use of its answer such as "text", and its id."""

    model: str = ""
    purpose: str = ""
    request: str = ""


class Ledger:
    """One file, written by one process at a time; others may read it. All methods may be called from any thread.

    Attempts that a killed process left `open` become `unknown` when the file is opened, except for those of batches.

    Args:
        path: the file; it and its folder are created.

    Raises:
        LockedError: another process, or another `Ledger` of this one, has the file open.
        UsageError: the file was written by another version.
        StorageError: the file cannot be written, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with storage_errors(path), ExitStack() as stack:
            stack.enter_context(lock_ledger(path))
            self._database, (self._spent, self._held, self._last) = open_tables(path)
            stack.enter_context(closing(self._database))
            self._reader = stack.enter_context(closing(kdtool.open_answers(path, read_only=True)))
            self._writer = Writer(self._database, path)
            stack.callback(self._writer.close)
            self._stack = stack.pop_all()
        self._changed: set[str] = set()
        self._lock = Lock()
        self._users = 1

    @classmethod
    def open_shared(cls, path: Path) -> Ledger:
        """Return this process's ledger of a file: opened by the first caller, closed by the last. Raises as `Ledger`."""
        name = path.absolute()
        with _SHARING:
            if name not in _SHARED:
                _SHARED[name] = cls(name)
            else:
                _SHARED[name]._users += 1
            return _SHARED[name]

    @property
    def spent(self) -> int:
        """Picodollars of all recorded answers."""
        return self._spent

    def spent_of(self, limit: int) -> str:
        """Return the money spent so far of that limit, such as "$0.420 of at most $5.00"."""
        return f"{kdtool.dollars(self.spent)} of at most {kdtool.dollars(limit)}"

    @property
    def on_hold(self) -> int:
        """Picodollars reserved for attempts that are open or whose outcome is unknown."""
        return self._held

    @property
    def mismatches(self) -> int:
        """Number of stored answers that were looked for and whose text was changed on disk."""
        return len(self._changed)

    def find(self, key: str) -> str | None:
        """Return the stored answer to a request; None if there is none, or if its text was changed on disk.

        Raises:
            StorageError: it is not a `kdtool.TextAnswer` as JSON, or the file cannot be read.
        """
        with self._lock, storage_errors(self.path):
            row = self._reader.execute("SELECT answer, sha256 FROM answer WHERE key = ?", (key,)).fetchone()
        if row is None:
            return None
        text: str = row[0]
        if not isinstance(text, str) or text_digest(text) != row[1]:
            self._changed.add(key)
            return None
        if read_answer(*row) is None:
            raise damaged_error(self.path, f"the answer with the key {key!r} is not one that kdtool wrote")
        return text

    def unknown(self) -> Mapping[str, int]:
        """Return the number of attempts with an unknown outcome, by the request's key."""
        with self._lock, storage_errors(self.path):
            rows = self._reader.execute("SELECT key, COUNT(*) FROM attempt WHERE state = 'unknown' GROUP BY key")
            return dict(rows.fetchall())

    def reserve(self, key: str, picodollars: int, *, limit: int, about: About = About()) -> Attempt | None:
        """Set money aside for a request; None if `limit` would be exceeded by all that is spent and set aside."""
        with self._lock:
            if self._spent + self._held + picodollars > limit:
                return None
            self._held += picodollars
            self._last += 1
            return Attempt(self._last, key, picodollars, about)

    def write_intent(self, attempt: Attempt) -> Future[None]:
        """Record the attempt. Send the request when the future is done."""
        return self._writer.write(_intent(attempt, None))

    def settle(self, attempt: Attempt, answer: str, picodollars: int, thinking: int = 0) -> Future[None]:
        """Store the answer, its price and tokens of thinking at once; the future is done when all are on disk."""
        return self._writer.write(
            (
                "UPDATE attempt SET state = 'answered', cost = ?, thinking = ? WHERE id = ?",
                (picodollars, thinking, attempt.id),
            ),
            (NEW_ANSWER, (attempt.key, answer, text_digest(answer))),
            then=lambda: self._move(attempt.reserved, picodollars),
        )

    def release(self, attempt: Attempt, reason: str) -> Future[None]:
        """Record that the service refused the request and charges nothing."""
        return self._writer.write(_state("failed", attempt, reason), then=lambda: self._move(attempt.reserved, 0))

    def doubt(self, attempt: Attempt, reason: str) -> Future[None]:
        """Record that the request was sent and no answer came: its reservation stays set aside."""
        return self._writer.write(_state("unknown", attempt, reason))

    def write_batch(self, name: str, attempts: Sequence[Attempt]) -> Future[None]:
        """Record a batch with all its attempts. Submit it when the future is done."""
        batch: Statement = ("INSERT INTO batch (id, state, begun) VALUES (?, 'open', ?)", (name, time.time()))
        return self._writer.write(batch, *(_intent(attempt, name) for attempt in attempts))

    def write_submitted(self, name: str, remote: str) -> Future[None]:
        """Record the service's id of a batch."""
        return self._writer.write(("UPDATE batch SET remote = ? WHERE id = ?", (remote, name)))

    def end_batch(self, name: str) -> Future[None]:
        """Record that a batch is finished; attempts of it that are still open become unknown."""
        return self._writer.write(
            ("UPDATE batch SET state = 'ended' WHERE id = ?", (name,)),
            (
                "UPDATE attempt SET state = 'unknown', reason = 'missing in the results of its batch' "
                "WHERE batch = ? AND state = 'open'",
                (name,),
            ),
        )

    def open_batches(self) -> list[Batch]:
        """Return batches that are not finished, in the order of their recording, with their open attempts."""
        with self._lock, storage_errors(self.path):
            batches = self._reader.execute(
                "SELECT id, remote FROM batch WHERE state = 'open' ORDER BY rowid"
            ).fetchall()
            query = "SELECT id, key, reserved FROM attempt WHERE batch = ? AND state = 'open' ORDER BY id"
            return [
                Batch(name, remote, tuple(Attempt(*row) for row in self._reader.execute(query, (name,))))
                for name, remote in batches
            ]

    def known_batches(self) -> frozenset[str]:
        """Return the service's ids of all recorded batches."""
        with self._lock, storage_errors(self.path):
            return frozenset(row[0] for row in self._reader.execute("SELECT remote FROM batch WHERE remote != ''"))

    def close(self) -> None:
        """Write what waits, and free the file once its last user closes it."""
        with _SHARING:
            self._users -= 1
            if self._users != 0:
                return
            _SHARED.pop(self.path, None)
            self._stack.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _move(self, reserved: int, cost: int) -> None:
        """Count a cost instead of its reservation."""
        with self._lock:
            self._held -= reserved
            self._spent += cost


_SHARED: dict[Path, Ledger] = {}
_SHARING = Lock()


@dataclass(frozen=True)
class Attempt:
    """A request that may be sent: `reserved` picodollars are set aside for it."""

    id: int
    key: str
    reserved: int
    about: About = About()


@dataclass(frozen=True)
class Batch:
    """Attempts that are sent together. `remote` is the service's id, "" as long as it is not known."""

    id: str
    remote: str
    attempts: tuple[Attempt, ...]


def _intent(attempt: Attempt, batch: str | None) -> Statement:
    about = attempt.about
    values = (attempt.id, attempt.key, attempt.reserved, time.time(), batch, about.model, about.purpose, about.request)
    return (_INTENT, values)


def _state(state: str, attempt: Attempt, reason: str) -> Statement:
    return ("UPDATE attempt SET state = ?, reason = ? WHERE id = ?", (state, reason, attempt.id))


Statement = tuple[str, Sequence[object]]
"""SQL and its values."""


class _Job(NamedTuple):
    statements: Sequence[Statement]
    then: Callable[[], None] | None
    future: Future[None]


class Writer:
    """Executes groups of statements, each group in whole or not at all.

    After one failure it refuses all others: no new request begins, and no batch ends whose results were not written.

    Args:
        database: the ledger's connection, in autocommit mode.
        path: its file.
    """

    def __init__(self, database: sqlite3.Connection, path: Path) -> None:
        self._database = database
        self._path = path
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def write(self, *statements: Statement, then: Callable[[], None] | None = None) -> Future[None]:
        """Write in one transaction; the future is done once it is on disk and `then` was called, or has a StorageError."""
        future: Future[None] = Future()
        self._jobs.put(_Job(statements, then, future))
        return future

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()

    def _work(self) -> None:
        last = False
        while not last:
            jobs: list[_Job] = []
            while not last and (not jobs or not self._jobs.empty()):
                job = self._jobs.get()
                if job is None:
                    last = True
                else:
                    jobs.append(job)
            if jobs:
                self._commit(jobs)

    def _commit(self, jobs: list[_Job]) -> None:
        try:
            if self._failure is None:
                self._execute(jobs)
        except BaseException as error:  # reaches every waiting caller
            self._failure = error
        for job in jobs:
            if self._failure is None:
                if job.then is not None:
                    job.then()
                job.future.set_result(None)
            else:
                job.future.set_exception(self._failure)

    def _execute(self, jobs: list[_Job]) -> None:
        with storage_errors(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for job in jobs:
                for sql, values in job.statements:
                    self._database.execute(sql, values)
