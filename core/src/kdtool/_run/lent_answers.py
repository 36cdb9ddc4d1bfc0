"""Answers of teachers in a process of another machine, with which a SQLite file cannot be shared.

Such a process gets a copy of the stored answers, in a file of the store that only it opens, and adds what its teachers
compute. The machine of the run takes the additions back. A process that is lost leaves its file to the one that replaces it.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from kdtool._run.answer_cache import is_intact, open_answers, storage_errors

_FOLDER = "answers"
_COPY = """INSERT INTO answer SELECT key, answer, sha256 FROM other.answer WHERE true ON CONFLICT (key) DO UPDATE
    SET answer = excluded.answer, sha256 = excluded.sha256
    WHERE (answer, sha256) IS NOT (excluded.answer, excluded.sha256) AND NOT is_intact(answer, sha256)"""
"""Replaces an answer only if the stored one is damaged."""


def lent_file(store: Path, stage: str) -> Path:
    """Return the file of answers for a process that makes the stage with this fingerprint."""
    return store / _FOLDER / f"{stage}.sqlite"


def lend_answers(answers: Path, lent: Path) -> None:
    """Copy the stored answers to `lent`, unless a lost process has left that file.

    It has SQLite's older journal: the newer one needs memory that processes share, which network file systems do not offer.

    Raises as `open_answers`.
    """
    if lent.exists():
        return
    part = lent.with_suffix(".part")
    _delete(part)
    with closing(open_answers(part)) as database:
        if answers.exists():
            _copy(answers, database)
        database.execute("PRAGMA journal_mode = DELETE")
    part.replace(lent)


def take_back_answers(answers: Path, files: Iterable[Path]) -> None:
    """Add the answers in lent files to the stored ones, and delete the files; one that a process has open stays.

    Raises as `open_answers`.
    """
    for lent in files:
        with closing(open_answers(answers)) as database, storage_errors(lent):
            database.execute("PRAGMA busy_timeout = 0")
            try:
                _copy(lent, database)
            except sqlite3.OperationalError:  # locked
                continue
        _delete(lent)


def _copy(source: Path, database: sqlite3.Connection) -> None:
    database.create_function("is_intact", 2, is_intact)
    database.execute("ATTACH ? AS other", (str(source),))
    try:
        database.execute(_COPY)
    finally:
        database.execute("DETACH other")


def _delete(file: Path) -> None:
    for suffix in ("", "-wal", "-shm", "-journal"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
