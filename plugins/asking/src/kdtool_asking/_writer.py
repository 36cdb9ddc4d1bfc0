"""A thread that writes: rows that arrive during one commit are in the next, so that many writers share one fsync."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import NamedTuple

import kdtool

from kdtool_asking._errors import storage_errors
from kdtool_asking._seal import Seal, Sealed
from kdtool_asking._spare import Spare
from kdtool_asking._tables import NEW_COUNT

__all__ = ["Statement", "Writer"]

Statement = tuple[str, Sequence[object]]
"""SQL and its values."""


class _Job(NamedTuple):
    statements: Sequence[Statement]
    change: int
    then: Callable[[], None] | None
    future: Future[None]


class Writer:
    """Executes groups of statements, each group in whole or not at all. After one failure it refuses all others.

    The first failure to write frees the spare room: requests under way can then be recorded, and no new one begins.

    Args:
        database: the ledger's connection, in autocommit mode.
        path: its file.
        spare: room to record requests under way when the disk is full.
        seal: written after each commit, before any future of it is done.
        sealed: the state of the database now.
    """

    def __init__(self, database: sqlite3.Connection, path: Path, spare: Spare, seal: Seal, sealed: Sealed) -> None:
        self._database = database
        self._path = path
        self._spare = spare
        self._seal = seal
        self._sealed = sealed
        self._full: kdtool.StorageError | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._failure: BaseException | None = None
        self._thread = Thread(target=self._work, name="ledger", daemon=True)
        self._thread.start()

    def write(
        self, *statements: Statement, change: int = 0, then: Callable[[], None] | None = None, begins: bool = False
    ) -> Future[None]:
        """Write in one transaction; the future is done once it is on disk and `then` was called, or has a StorageError.

        Args:
            statements: what to execute.
            change: picodollars that it adds to the money spent and reserved.
            then: called when it is on disk.
            begins: something new follows, which must not begin once the disk is full.
        """
        future: Future[None] = Future()
        if begins and self._full is not None:
            future.set_exception(self._full)
            return future
        self._jobs.put(_Job(statements, change, then, future))
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
        for job in jobs:
            if self._failure is None:
                if job.then is not None:
                    job.then()
                job.future.set_result(None)
            else:
                job.future.set_exception(self._failure)

    def _execute(self, jobs: list[_Job]) -> None:
        before = self._sealed
        sealed = Sealed(before.commits + 1, before.picodollars + sum(job.change for job in jobs))
        self._with_room(partial(self._transact, jobs, sealed.commits))
        # Without a sync, a power cut may leave an older seal, which counts as much money or more.
        self._with_room(partial(self._write_seal, sealed, sync=sealed.picodollars > before.picodollars))
        self._sealed = sealed

    def _with_room(self, write: Callable[[], None]) -> None:
        try:
            write()
        except kdtool.StorageError as error:
            if not self._spare.free():
                raise
            self._full = error
            write()

    def _transact(self, jobs: list[_Job], commits: int) -> None:
        with storage_errors(self._path), self._database:
            self._database.execute("BEGIN IMMEDIATE")
            for job in jobs:
                for sql, values in job.statements:
                    self._database.execute(sql, values)
            self._database.execute(NEW_COUNT, (commits,))

    def _write_seal(self, sealed: Sealed, *, sync: bool) -> None:
        with storage_errors(self._path):
            self._seal.write(sealed, sync=sync)
