"""One process at a time changes a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool
from filelock import FileLock, Timeout

from kdtool_asking._errors import refuse_directories

__all__ = ["lock_ledger"]


@contextmanager
def lock_ledger(path: Path) -> Iterator[None]:
    """Hold the lock of a ledger; its folder is created.

    Raises:
        LockedError: another process, or another user in this one, has locked it.
        StorageError: a directory is in the place of one of its files.
        OSError: the folder cannot be written.
    """
    beside = [path.with_name(path.name + ending) for ending in (".lock", ".spare", ".seal")]
    refuse_directories(path, *beside)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(beside[0])
    try:
        lock.acquire(timeout=0.5)
    except Timeout:
        raise kdtool.LockedError(
            f"the ledger {path} is in use by another run; wait for it, or name another file by `ledger`"
        ) from None
    try:
        yield
    finally:
        lock.release()
