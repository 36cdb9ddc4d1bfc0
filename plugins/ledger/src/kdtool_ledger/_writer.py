"""A thread that writes: whatever arrives during one commit is in the next, so that many writers share one fsync."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

from kdtool_ledger._tables import storage_errors

__all__ = ["Statement", "Writer"]

Statement = tuple[str, Sequence[object]]
"""SQL and its values."""
_Job = tuple[list[Statement], Callable[[], None] | None, "Future[None]"]


class Writer:
    """Executes groups of statements, each group in whole or not at all. After one failure it refuses all others."""

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
        self._jobs.put((list(statements), then, future))
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
                with storage_errors(self._path), self._database:
                    self._database.execute("BEGIN IMMEDIATE")
                    for statements, _, _ in jobs:
                        for sql, values in statements:
                            self._database.execute(sql, values)
        except BaseException as error:  # reaches every waiting caller
            self._failure = error
        for _, then, future in jobs:
            if self._failure is None:
                if then is not None:
                    then()
                future.set_result(None)
            else:
                future.set_exception(self._failure)
