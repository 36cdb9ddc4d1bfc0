"""A thread that writes: whatever arrives during one commit is in the next, so that many writers share one fsync."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import kdtool

from kdtool_ledger._spare import Spare
from kdtool_ledger._tables import storage_errors

__all__ = ["Statement", "Writer"]

Statement = tuple[str, Sequence[object]]
"""SQL and its values."""
_Job = tuple[list[Statement], Callable[[], None] | None, "Future[None]"]


class Writer:
    """Executes groups of statements, each group in whole or not at all. After one failure it refuses all others.

    The first failure to write frees the spare room: with it what is under way can be recorded, and nothing is begun.
    """

    def __init__(self, database: sqlite3.Connection, path: Path, spare: Spare) -> None:
        self._database = database
        self._path = path
        self._spare = spare
        self._full: kdtool.StorageError | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def write(
        self, *statements: Statement, then: Callable[[], None] | None = None, begins: bool = False
    ) -> Future[None]:
        """Write in one transaction; the future is done once it is on disk and `then` was called, or has a StorageError.

        Args:
            statements: what to execute.
            then: called when it is on disk.
            begins: something new follows, which must not begin once the disk is full.
        """
        future: Future[None] = Future()
        if begins and self._full is not None:
            future.set_exception(self._full)
            return future
        self._jobs.put((list(statements), then, future))
        return future

    def close(self) -> None:
        """Write what waits, and end the thread."""
        self._jobs.put(None)
        self._thread.join()
        self._spare.free()

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
        for _, then, future in jobs:
            if self._failure is None:
                if then is not None:
                    then()
                future.set_result(None)
            else:
                future.set_exception(self._failure)

    def _execute(self, jobs: list[_Job]) -> None:
        try:
            self._transact(jobs)
        except kdtool.StorageError as error:
            if not self._spare.free():
                raise
            self._full = error
            self._transact(jobs)

    def _transact(self, jobs: list[_Job]) -> None:
        with storage_errors(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for statements, _, _ in jobs:
                for sql, values in statements:
                    self._database.execute(sql, values)
