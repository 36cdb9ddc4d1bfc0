"""One process per run: a lock on the run's folder, and a file with the holder's pid, host, time and a random id."""

from __future__ import annotations

import contextlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from kdtool._errors import LockedError
from kdtool._store.atomic_files import write_beside

HOLDER = "lock.json"
_GLIMPSE = 0.5
"""Seconds for which a run's lock is asked for: `kdtool runs` holds it for a moment to see whether anyone else does."""
_LOOK = 0.1
"""Seconds for which a lock must stay held before it counts as a process that works on the run."""


@contextmanager
def run_lock(folder: Path) -> Iterator[dict[str, Any]]:
    """Hold the run's folder, and give the record of the holder; a lock that a killed process left is free by itself.

    Raises:
        LockedError: another process works on the run.
    """
    holder, process = folder / HOLDER, os.getpid()
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=_GLIMPSE)
    except Timeout as error:
        raise LockedError(f"{folder} is in use{_by_holder(folder)}; wait for it, or choose another --out") from error
    try:
        since = datetime.now(UTC).isoformat(timespec="seconds")
        about: dict[str, Any] = {"pid": process, "host": platform.node(), "since": since, "id": secrets.token_hex(8)}
        write_beside(holder, json.dumps(about))
        yield about
    finally:
        if os.getpid() == process:  # not in a forked worker that comes by here when it ends
            with contextlib.suppress(OSError):  # a disk that became read-only
                holder.unlink(missing_ok=True)
            lock.release()


def worker_of(folder: Path) -> str | None:
    """Return a description of the process that works on the run in `folder`; None where none does.

    Where the lock cannot be opened for writing, a run counts as held if it names a holder.
    """
    path = folder / ".lock"
    if not path.exists():
        return None
    lock = FileLock(path)
    try:
        lock.acquire(timeout=_LOOK, poll_interval=_LOOK / 4)  # others who look hold it for a moment, too
        lock.release()
    except Timeout:
        return _by_holder(folder).removeprefix(" by ") or "another process"
    except OSError:
        return _by_holder(folder).removeprefix(" by ") or None
    return None


def holder_of(folder: Path) -> dict[str, Any] | None:
    """Return the record of the process that works on the run; None where none does."""
    holder = recorded_holder(folder)
    return holder if holder is not None and worker_of(folder) is not None else None


def recorded_holder(folder: Path) -> dict[str, Any] | None:
    """Return the record of the last holder of the lock, which may have ended."""
    try:
        holder: dict[str, Any] = json.loads((folder / HOLDER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return holder


def is_led(folder: Path, leader: dict[str, Any] | None) -> bool:
    """Return whether the rank 0 that was agreed on still works on the run."""
    return leader is not None and (holder_of(folder) or {}).get("id") == leader["id"]


def _by_holder(folder: Path) -> str:
    holder = recorded_holder(folder) or {}
    return f" by process {holder['pid']} on {holder['host']} since {holder['since']}" if "since" in holder else ""
