"""The file of logged steps: one JSON object a line, cut back to the checkpoint when a phase resumes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import kdtool

__all__ = ["append", "cut_back"]


def append(path: Path, report: kdtool.StepReport) -> None:
    """Add a report to the file."""
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(report)) + "\n")


def cut_back(path: Path, step: int) -> None:
    """Leave only reports up to `step`; 0 begins anew. A line torn by a killed process goes too."""
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            report = json.loads(line)
        except ValueError:
            break
        if report["step"] > step:
            break
        kept.append(line + "\n")
    path.write_text("".join(kept), encoding="utf-8")
