"""trackio itself finds every number, once, in runs that are killed, resumed, repeated and replayed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from kdtool_report.trackio import TrackioTracker
from kdtool_testing import TrackerConformance, make_run
from trackio.sqlite_storage import SQLiteStorage


class TestTrackioTracker(TrackerConformance):
    component = TrackioTracker
    entry_point = "trackio"


def tracker(**settings: Any) -> TrackioTracker:
    return TrackioTracker(TrackioTracker.Config(**settings))


def report(step: int, loss: float | None = None) -> kdtool.StepReport:
    return kdtool.StepReport(step, 10, step * 64, step / 2, float(step) if loss is None else loss, 1e-3, 0.5)


def train(
    run: kdtool.RunInfo, *steps: int, phase: str = "train", loss: float | None = None, seed: int = 0, **settings: Any
) -> None:
    """Log steps in a process of their own, which is killed at the end: nothing is closed."""
    told = tracker(**settings)
    told.kdtool_run_start(run, ())
    place: dict[str, Any] = {"stage": "phases", "phase": phase, "label": f"student-seed{seed}-{phase}", "seed": seed}
    for step in steps:
        told.kdtool_step_end(make_run(run.folder, **place), report(step, loss))


def read(folder: Path) -> dict[str, Any]:
    """Return all of trackio's projects in a folder: runs, each with its logs and config; as `trackio show` opens them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trackio.sqlite_storage.TRACKIO_DIR", folder)
        SQLiteStorage.migrate_all_projects()
        return {
            project: {
                run: {
                    "logs": SQLiteStorage.get_logs(project, run),
                    "config": SQLiteStorage.get_run_config(project, run),
                }
                for run in SQLiteStorage.get_runs(project)
            }
            for project in SQLiteStorage.get_projects()
        }


def losses(folder: Path, phase: str = "train", run: str = "student-seed0") -> list[tuple[int, float]]:
    (project,) = read(folder / "trackio").values()
    return [(log["step"], log[f"{phase}/loss"]) for log in project[run]["logs"] if f"{phase}/loss" in log]


def test_a_resumed_run_continues_its_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2, 4, 6)
    train(run, 4, 6, 8, loss=7.0)
    train(run, 10)
    assert losses(tmp_path) == [(1, 1.0), (2, 2.0), (4, 7.0), (6, 7.0), (8, 7.0), (10, 10.0)]


def test_a_phase_that_is_trained_again_replaces_its_curve_and_no_other(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2, 3, phase="first")
    train(run, 1, 2, 3, phase="first", seed=1)
    train(run, 1, 2, 3, phase="second")
    train(run, 1, 2, phase="second", loss=9.0)
    assert losses(tmp_path, "first") == losses(tmp_path, "first", "student-seed1") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert losses(tmp_path, "second") == [(1, 9.0), (2, 9.0)]


def test_a_replay_in_one_process_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2, 3, 4, 3, 4, 5)
    train(run, 1, 2, 3, 4, 3, 4, 5)
    assert losses(tmp_path) == [(step, float(step)) for step in range(1, 6)]


def test_a_run_continues_in_a_database_that_trackio_has_opened(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2)
    read(tmp_path / "trackio")
    train(run, 2, 3)
    assert losses(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_odd_numbers_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step, number in enumerate((float("inf"), -float("inf"), float("nan"), 0.1), start=1):
        train(run, step, loss=number)
    assert [str(value) for _, value in losses(tmp_path)] == ["inf", "-inf", "nan", "0.1"]


def test_measurements_texts_and_settings_are_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"recipe": {"train": {"train": {"steps": 5}}}}')
    train(make_run(tmp_path, name="my.run"), 1)
    for value in (1.5, 2.5):
        told, run = tracker(), make_run(tmp_path, name="my.run")
        stages = [kdtool.StageRecord("phases/student-seed0-train", "f", 0.0, reused=True, path=tmp_path)]
        told.kdtool_run_start(run, stages)
        found: dict[str, Any] = {"low": 1.0, "high": 3.0, "texts": MappingProxyType({"def f(": "x): pass"})}
        told.kdtool_measurement(run, kdtool.Measurement("bits", "student", "bits", value, 4, False, **found))
        told.kdtool_run_end(run, "done", None)
    project = read(tmp_path / "trackio")["myrun"]
    assert list(project) == ["student-seed0"]
    first, log = project["student-seed0"]["logs"]
    assert first["step"] == 1
    assert log["measurements/bits"] == 2.5
    assert (log["measurements/bits/low"], log["measurements/bits/high"]) == (1.0, 3.0)
    assert log["samples/bits"]["_type"] == "trackio.markdown"
    assert "    def f(" in log["samples/bits"]["_value"]
    config = project["student-seed0"]["config"]
    assert (config["train.train.steps"], config["_Group"], config["_Created"]) == (5, "student", first["timestamp"])


def test_runs_share_a_project_in_a_folder_of_the_recipe(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        train(make_run(tmp_path / name, name=name), 1, folder=tmp_path / "all", project="study")
    assert {name: len(run["logs"]) for name, run in read(tmp_path / "all")["study"].items()} == {
        "one-student-seed0": 1,
        "two-student-seed0": 1,
    }
    assert not (tmp_path / "one" / "trackio").exists()


def test_the_database_opens_as_the_readme_says_without_trackio_in_training(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom kdtool_testing import make_run\n"
        "from kdtool_testing.tracker import tell_a_run\nfrom kdtool_report.trackio import TrackioTracker\n"
        "tell_a_run(TrackioTracker(TrackioTracker.Config()), make_run(Path(sys.argv[1])))\n"
        "assert 'trackio' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=True)
    show = [sys.executable, "-m", "trackio.cli", "list", "runs", "--project", "test", "--json"]
    settings = {**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio"), "HF_HUB_OFFLINE": "1"}
    shown = subprocess.run(show, env=settings, check=True, capture_output=True, text=True, encoding="utf-8")
    assert json.loads(shown.stdout)["runs"] == ["student-seed0"]
