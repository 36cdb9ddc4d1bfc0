"""Read the files of offline runs with W&B's own reader."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["OfflineRun", "curve", "offline_runs"]


@dataclass
class OfflineRun:
    """A W&B run as it was written: its record, its points in order, its last summary and config, and its artefacts."""

    folder: Path
    run: dict[str, Any]
    history: list[dict[str, Any]]
    artifacts: list[dict[str, Any]]
    summary: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)


def offline_runs(folder: Path) -> dict[str, OfflineRun]:
    """Return the offline runs below the folder of a run, by the name that W&B shows without that of the run.

    Of several trainings of the same arm, the last one counts.
    """
    found: dict[str, OfflineRun] = {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        records = [json.loads(line) for line in _inspect("--json", file).splitlines()]
        of = {kind: [one[kind] for one in records if one["type"] == kind] for kind in ("run", "history", "artifact")}
        title = of["run"][0]["display_name"].partition(": ")[2]
        earlier = found.get(title)
        assert not earlier or earlier.run["run_id"] != of["run"][0]["run_id"], f"two files of {title}"
        whole = json.loads(_inspect("--json", "--summary", file))
        points = [one["item"] for one in of["history"]]
        found[title] = OfflineRun(file.parent, of["run"][0], points, of["artifact"], whole["summary"], whole["config"])
    return found


def curve(run: OfflineRun, name: str) -> dict[int, Any]:
    """Return the points of a curve, by step; a step that is there twice fails."""
    points = [(point["train/step"], point[name]) for point in run.history if name in point]
    assert len(dict(points)) == len(points)
    return dict(points)


def _inspect(*arguments: str | Path) -> str:
    command = [sys.executable, "-m", "wandb", "leet", "inspect", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8")
    return done.stdout
