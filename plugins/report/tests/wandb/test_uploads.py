"""Uploads to a stand-in of W&B's server: offline runs by `wandb sync`, and online runs that are killed and resumed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kdtool
import pytest
import wandb
from kdtool_report.wandb import WandbTracker
from kdtool_testing import make_run
from wandb_server import Uploaded, serve

pytestmark = pytest.mark.slow

KEY = "0123456789abcdef0123456789abcdef01234567"
PLAN = [kdtool.StageRecord("phases/student-seed0-train", "a" * 64, 0.0, reused=False, path=Path())]
EVENT = (
    '{{"event": "step_end", "stage": "phases", "label": "student-seed0-train", "arm": "student", "seed": 0, '
    '"time": "2026-11-22T20:00:0{0}+00:00", "report": {{"step": {0}, "steps": 9, "tokens": {0}, "seconds": {0}, '
    '"loss": 1.5, "learning_rate": 0.1, "gradient_norm": 1, "terms": {{}}, "metrics": {{}}}}}}'
)
PLANNED = (
    '{"event": "run_start", "recipe": {}, "stages": [{"name": "phases/student-seed0-train", "fingerprint": "'
    + "a" * 64
    + '"}]}'
)


def track(folder: Path, steps: range, *, killed: bool = False, **settings: Any) -> None:
    """Tell of steps; the earlier ones are in the event log. A run that is killed has no end."""
    earlier = [EVENT.format(step) for step in range(1, steps[0])]
    (folder / "events.jsonl").write_text("\n".join([PLANNED, *earlier, ""]), encoding="utf-8")
    told = WandbTracker(WandbTracker.Config.model_validate(settings))
    told.kdtool_run_start(make_run(folder), PLAN)
    run = make_run(folder, stage="phases", label="student-seed0-train", phase="train")
    for step in steps:
        told.kdtool_step_end(run, kdtool.StepReport(step, 9, step, step, 1.5, 0.1, 1.0))
    if not killed:
        told.kdtool_run_end(make_run(folder), "failed", None)
    told.kdtool_close()


def steps_of(run: Uploaded) -> list[tuple[int, float]]:
    return [(line["train/step"], line["train/loss"]) for line in run.history]


def test_an_offline_run_is_uploaded_whole_however_often(tmp_path: Path) -> None:
    with serve() as (url, runs):
        for steps in (range(1, 4), range(3, 8), range(8, 10)):
            track(tmp_path, steps, tags=["nightly"])
            _sync(tmp_path, url)
            (run,) = runs.values()
            assert steps_of(run) == [(step, 1.5) for step in range(1, steps[-1] + 1)]
        _sync(tmp_path, url)
        assert [*runs.values()] == [run]
        assert steps_of(run) == [(step, 1.5) for step in range(1, 10)]
        assert run.settings["displayName"] == "test: student, seed 0"
        assert run.settings["tags"] == ["nightly"]


def test_an_online_run_that_is_killed_and_resumed_is_one_curve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve() as (url, runs):
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", KEY)
        wandb.teardown()  # reads the variables again
        for steps in (range(1, 4), range(3, 6), range(5, 10)):
            track(tmp_path, steps, killed=steps[-1] < 9, mode="online")
            (run,) = runs.values()
            assert steps_of(run) == [(step, 1.5) for step in range(1, steps[-1] + 1)]
            assert run.lines == steps[-1], "no point is sent again"
    wandb.teardown()
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and KEY.encode() in path.read_bytes()]


def _sync(folder: Path, url: str) -> None:
    environment = {**os.environ, "WANDB_BASE_URL": url, "WANDB_API_KEY": KEY, "WANDB_ERROR_REPORTING": "false"}
    command = [
        sys.executable,
        "-m",
        "wandb",
        "sync",
        "--yes",
        "--include-synced",
        *map(str, folder.glob("wandb/offline-*")),
    ]
    subprocess.run(command, env=environment, check=True, capture_output=True, cwd=folder)
