"""Checkpoints that are whole or absent, whenever the process or the machine stops.

A checkpoint is written in `.writing/`, renamed into place, and committed (`kdtool.commit`). Before a phase resumes, the
engine discards all that is not as it was committed, byte by byte. Called by the training loop on rank 0.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import kdtool
from safetensors import SafetensorError

__all__ = [
    "WRITING",
    "all_of",
    "commit",
    "explain_full_disk",
    "rotate",
    "start_writing",
    "step_of",
]

WRITING = ".writing"
_PREFIX = "checkpoint-"


def start_writing(root: Path) -> Path:
    """Return the empty folder below `root` in which a checkpoint is written."""
    folder = root / WRITING
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def commit(written: Path, root: Path) -> Path:
    """Make a written folder a checkpoint of `root`, at once and for good; return its path."""
    target = root / written.name
    if target.exists():  # a broken one of the same step
        shutil.rmtree(target)
    written.rename(target)
    kdtool.commit(root, target)
    return target


def all_of(root: Path) -> list[Path]:
    """Return the checkpoints below `root`, the oldest first; whole ones, once the engine has discarded the others."""
    folders = [path for path in root.glob(f"{_PREFIX}*") if path.name.removeprefix(_PREFIX).isdigit()]
    return sorted(folders, key=step_of)


def step_of(folder: Path) -> int:
    """Return the step at which a checkpoint was taken."""
    return int(folder.name.removeprefix(_PREFIX))


def rotate(root: Path, keep: int) -> None:
    """Remove all checkpoints except the newest `keep`."""
    for folder in all_of(root)[:-keep]:
        kdtool.commit(root, gone=[folder])
        shutil.rmtree(folder)


@contextmanager
def explain_full_disk(root: Path) -> Iterator[None]:
    """Explain a file that could not be written, and make room by removing the part of it that was."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        shutil.rmtree(root / WRITING, ignore_errors=True)
        raise kdtool.StorageError(
            f"cannot write a checkpoint below {root}: {error}. The one before it is kept; make room, then run the same "
            "command again"
        ) from error
