"""Snapshots of SQLite files: whole copies of a database that others may be writing."""

from __future__ import annotations

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

__all__ = ["is_database", "restore", "snapshot"]

_HEAD = b"SQLite format 3\0"


def is_database(file: Path) -> bool:
    """Return whether the file is a SQLite database."""
    with file.open("rb") as opened:
        return opened.read(len(_HEAD)) == _HEAD


def snapshot(file: Path, copy: Path) -> str:
    """Copy a database as it is at one moment, and return the SHA-256 of the copy.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    copy.unlink(missing_ok=True)
    os.close(os.open(copy, os.O_CREAT | os.O_WRONLY, 0o600))
    address = f"{file.absolute().as_uri()}?mode=ro"
    with closing(sqlite3.connect(address, uri=True)) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = DELETE")  # one file, without a log
    with copy.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def restore(copy: Path, file: Path) -> None:
    """Replace the content of a database in one transaction; processes that have it open then read the new one.

    Raises:
        sqlite3.Error: it cannot be read or written.
    """
    if not file.exists():
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
    with closing(sqlite3.connect(copy)) as source, closing(sqlite3.connect(file, timeout=60)) as target:
        source.backup(target)
        target.execute("PRAGMA journal_mode = WAL")
