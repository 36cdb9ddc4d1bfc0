"""Size limit of the local folder: copies of artefacts that the store has are removed, those used longest ago first."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import kdtool
from filelock import FileLock, Timeout

from kdtool_object_store._artefacts import MANIFEST

__all__ = ["free_space", "read_limit", "touch"]

_LIMIT = "KDTOOL_STORE_LIMIT"
_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}


def read_limit() -> int | None:
    """Return the bytes that the local folder may take after a run, from KDTOOL_STORE_LIMIT; None without a limit.

    Raises:
        UsageError: it is not a size.
    """
    text = os.environ.get(_LIMIT, "")
    size = re.fullmatch(r"(\d+(?:\.\d+)?) ?([kMGT]?)B?", text)
    if text and size is None:
        raise kdtool.UsageError(f"{_LIMIT}={text!r} is not a size; write for instance {_LIMIT}=200GB")
    return int(float(size[1]) * _UNITS[size[2]]) if size else None


def touch(folder: Path) -> None:
    """Note that an artefact is used now."""
    (folder / MANIFEST).touch()


def free_space(store: Path, limit: int, ended: Path, is_kept: Callable[[Path], bool]) -> None:
    """Remove artefacts from `store` until it takes at most `limit` bytes, unless another run uses the folder.

    `ended` is the folder of the run that has just ended. `is_kept` returns whether the remote store has an artefact; others
    stay.
    """
    if _is_used(store, ended):
        return
    artefacts = [manifest.parent for manifest in store.glob(f"*/*/{MANIFEST}")]
    total = sum(file.stat().st_size for file in store.rglob("*") if file.is_file())
    for folder in sorted(artefacts, key=lambda folder: (folder / MANIFEST).stat().st_mtime):
        if total <= limit:
            return
        if is_kept(folder):
            total -= sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
            aside = folder.with_name(f"{folder.name}.removed")
            with FileLock(folder.with_name(f"{folder.name}.lock")):
                shutil.rmtree(aside, ignore_errors=True)  # left by a process that was stopped below
                folder.rename(aside)
            shutil.rmtree(aside)


def _is_used(store: Path, ended: Path) -> bool:
    """Return whether another run that is registered in the store is running."""
    for record in (store / "runs").glob("*.json"):
        folder = Path(json.loads(record.read_bytes())["folder"])
        if folder != ended and (folder / ".lock").exists():
            try:
                with FileLock(folder / ".lock").acquire(timeout=0):
                    pass
            except Timeout:
                return True
    return False
