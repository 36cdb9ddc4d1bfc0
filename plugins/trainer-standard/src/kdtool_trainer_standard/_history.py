"""The file of logged steps: one JSON object per line. Each checkpoint holds a copy, which a resumed phase continues."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import kdtool

__all__ = ["HISTORY", "append", "restore"]

HISTORY = "history.jsonl"


def append(path: Path, report: kdtool.StepReport) -> None:
    """Add a report to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(report)) + "\n")


def restore(path: Path, checkpoint: Path | None) -> None:
    """Restore the steps logged before the checkpoint; None removes all steps."""
    if checkpoint is None:
        path.unlink(missing_ok=True)
    else:
        shutil.copyfile(checkpoint / HISTORY, path)
