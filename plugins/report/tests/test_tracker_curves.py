"""TensorBoard's and trackio's own readers find every number, once, in runs that are killed, resumed and replayed."""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from kdtool_report.tensorboard import TensorBoardTracker
from kdtool_report.trackio import TrackioTracker
from kdtool_testing import TrackerConformance, make_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from trackio.sqlite_storage import SQLiteStorage

TRACKERS: dict[str, type[kdtool.Tracker]] = {"tensorboard": TensorBoardTracker, "trackio": TrackioTracker}
Curve = list[tuple[int, float]]
both = pytest.mark.parametrize("kind", TRACKERS)


class TestTensorBoardTracker(TrackerConformance):
    component = TensorBoardTracker
    entry_point = "tensorboard"


class TestTrackioTracker(TrackerConformance):
    component = TrackioTracker
    entry_point = "trackio"


def tracker(kind: str, **settings: Any) -> kdtool.Tracker:
    return TRACKERS[kind](TRACKERS[kind].Config.model_validate(settings))


def train(
    kind: str,
    run: kdtool.RunInfo,
    *steps: int,
    phase: str = "train",
    loss: float | None = None,
    seed: int = 0,
    **settings: Any,
) -> None:
    """Log steps in a process of their own, which is killed at the end: nothing is closed."""
    told = tracker(kind, **settings)
    told.kdtool_run_start(run, ())
    place: dict[str, Any] = {"stage": "phases", "phase": phase, "label": f"student-seed{seed}-{phase}", "seed": seed}
    for step in steps:
        value = float(step) if loss is None else loss
        report = kdtool.StepReport(step, 10, step * 64, step / 2, value, 1e-3, 0.5)
        told.kdtool_step_end(make_run(run.folder, **place), report)


def read_events(folder: Path, series: str = "student-seed0") -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / series), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def read_databases(folder: Path) -> dict[str, Any]:
    """Return all of trackio's projects in a folder: runs, each with its logs and config; as `trackio show` opens them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trackio.sqlite_storage.TRACKIO_DIR", folder)
        SQLiteStorage.migrate_all_projects()
        return {
            project: {
                run: (SQLiteStorage.get_logs(project, run), SQLiteStorage.get_run_config(project, run))
                for run in SQLiteStorage.get_runs(project)
            }
            for project in SQLiteStorage.get_projects()
        }


def losses(kind: str, folder: Path, phase: str = "train", series: str = "student-seed0") -> Curve:
    name = f"{phase}/loss"
    if kind == "tensorboard":
        return [(event.step, event.value) for event in read_events(folder, series).Scalars(name)]
    (project,) = read_databases(folder / "trackio").values()
    return [(log["step"], log[name]) for log in project[series][0] if name in log]


def event_files(folder: Path) -> list[Path]:
    return sorted((folder / "tensorboard").glob("*/*"))


@both
def test_a_resumed_run_continues_its_curve(kind: str, tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(kind, run, 1, 2, 4, 6)
    losses(kind, tmp_path)  # opens trackio's database
    train(kind, run, 4, 6, 8, loss=7.0)
    train(kind, run, 10)
    assert losses(kind, tmp_path) == [(1, 1.0), (2, 2.0), (4, 7.0), (6, 7.0), (8, 7.0), (10, 10.0)]


@both
def test_a_phase_that_is_trained_again_replaces_its_curve_and_no_other(kind: str, tmp_path: Path) -> None:
    run, first = make_run(tmp_path), [(1, 1.0), (2, 2.0), (3, 3.0)]
    train(kind, run, 1, 2, 3, phase="first")
    train(kind, run, 1, 2, 3, phase="first", seed=1)
    train(kind, run, 1, 2, 3, phase="second")
    train(kind, run, 1, 2, phase="second", loss=9.0)
    assert losses(kind, tmp_path, "first") == losses(kind, tmp_path, "first", "student-seed1") == first
    assert losses(kind, tmp_path, "second") == [(1, 9.0), (2, 9.0)]


@both
def test_a_replay_in_one_process_changes_nothing(kind: str, tmp_path: Path) -> None:
    for _ in range(2):
        train(kind, make_run(tmp_path), 1, 2, 3, 4, 3, 4, 5)
        assert losses(kind, tmp_path) == [(step, float(step)) for step in range(1, 6)]


@both
def test_odd_numbers_are_kept(kind: str, tmp_path: Path) -> None:
    for step, number in enumerate((float("inf"), -float("inf"), float("nan"), 0.1), start=1):
        train(kind, make_run(tmp_path), step, loss=number)
    last = struct.unpack("f", struct.pack("f", 0.1))[0] if kind == "tensorboard" else 0.1
    assert [str(value) for _, value in losses(kind, tmp_path)] == ["inf", "-inf", "nan", str(last)]


@both
def test_the_end_of_a_run_says_how_to_see_the_curves(kind: str, tmp_path: Path) -> None:
    said: list[str] = []
    measure_twice(kind, make_run(tmp_path, say=said.append))
    line = {"tensorboard": "tensorboard --logdir {}", "trackio": "TRACKIO_DIR={} trackio show"}[kind]
    assert said == [f"to see the curves: {line.format(tmp_path / kind)}"] * 2


@pytest.mark.parametrize("lost", [0, 1, 9, 30, 150])
def test_a_torn_record_or_what_a_power_failure_left_is_cut_off(tmp_path: Path, lost: int) -> None:
    run = make_run(tmp_path)
    train("tensorboard", run, 1, 2)
    (path,) = event_files(tmp_path)
    whole = path.read_bytes()
    train("tensorboard", run, 3)
    (path,) = event_files(tmp_path)
    content = path.read_bytes()
    assert lost < len(content) - len(whole)
    path.write_bytes(content[:-lost] if lost else whole + bytes(64))
    for name in ("phase-train.partial", "phase-train.partial.writing"):
        path.with_name(name).symlink_to("elsewhere")  # where nothing is written
    train("tensorboard", run, 4)
    assert losses("tensorboard", tmp_path) == [(1, 1.0), (2, 2.0), (4, 4.0)]
    assert len(event_files(tmp_path)) == 1


def test_relative_time_leaves_an_interruption_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train("tensorboard", run, 2, 4)
    train("tensorboard", run, 6)
    times = [event.wall_time for event in read_events(tmp_path).Scalars("train/loss")]
    assert [round(time - times[0], 3) for time in times] == [0.0, 1.0, 2.0]


def measure_twice(kind: str, run: kdtool.RunInfo, *stages: kdtool.StageRecord) -> None:
    settings = {"recipe": {"train": {"train": {"steps": 5}}, "student": {"use": "gpt"}}}
    (run.folder / "results.json").write_text(json.dumps(settings))
    for value in (1.5, 2.5):
        told = tracker(kind)
        told.kdtool_run_start(run, stages)
        found: dict[str, Any] = {"low": 1.0, "high": 3.0, "texts": MappingProxyType({"def f(": "x): pass"})}
        told.kdtool_measurement(run, kdtool.Measurement("bits", "student", "bits", value, 4, False, **found))
        told.kdtool_run_end(run, "done", None)


def test_measurements_texts_and_settings_in_event_files_are_replaced_as_a_whole(tmp_path: Path) -> None:
    measure_twice("tensorboard", make_run(tmp_path))
    events = read_events(tmp_path, "student")
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {"measurements/bits": [2.5], "measurements/bits/low": [1.0], "measurements/bits/high": [3.0]}
    (text,) = events.Tensors("bits/text_summary")
    assert b"    def f(" in text.tensor_proto.string_val[0]
    start, experiment = (
        HParamsPluginData.FromString(events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content)
        for name in ("session_start_info", "experiment")
    )
    settings = start.session_start_info.hparams
    assert (settings["model"].string_value, settings["student.use"].string_value) == ("student", "gpt")
    assert settings["train.train.steps"].number_value == 5
    assert [metric.name.tag for metric in experiment.experiment.metric_infos] == ["measurements/bits"]
    assert len(event_files(tmp_path)) == 1


def test_measurements_texts_and_settings_in_databases_are_replaced_as_a_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path, name="my.run")
    train("trackio", run, 1)
    measure_twice(
        "trackio", run, kdtool.StageRecord("phases/student-seed0-train", "f", 0.0, reused=True, path=tmp_path)
    )
    (found,) = read_databases(tmp_path / "trackio")["myrun"].items()
    name, ((first, log), config) = found
    assert (name, first["step"]) == ("student-seed0", 1)
    assert [log[f"measurements/bits{end}"] for end in ("", "/low", "/high")] == [2.5, 1.0, 3.0]
    assert log["samples/bits"]["_type"] == "trackio.markdown"
    assert "    def f(" in log["samples/bits"]["_value"]
    assert (config["train.train.steps"], config["_Group"], config["_Created"]) == (5, "student", first["timestamp"])


def test_names_that_no_file_system_takes_become_folders(tmp_path: Path) -> None:
    told = tracker("tensorboard")
    told.kdtool_run_start(make_run(tmp_path), ())
    place = make_run(tmp_path, arm="../a\x00b " * 200, phase="../../x")
    told.kdtool_step_end(place, kdtool.StepReport(1, 10, 64, 0.5, 1.0, 1e-3, 0.5))
    told.kdtool_close()
    (path,) = event_files(tmp_path)
    assert path.resolve().is_relative_to(tmp_path / "tensorboard")


def test_runs_share_a_project_in_a_folder_of_the_recipe(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        train("trackio", make_run(tmp_path / name, name=name), 1, folder=tmp_path / "all", project="study")
    found = read_databases(tmp_path / "all")["study"]
    assert {name: len(logs) for name, (logs, _) in found.items()} == {"one-student-seed0": 1, "two-student-seed0": 1}
    assert not (tmp_path / "one" / "trackio").exists()


@pytest.mark.parametrize("is_there", [True, False])
def test_no_database_of_others_is_written_through_a_link(tmp_path: Path, is_there: bool) -> None:
    if is_there:
        sqlite3.connect(tmp_path / "cookies.db").execute("CREATE TABLE jars (jar)")
    before = sorted(path.read_bytes() for path in tmp_path.iterdir())
    (tmp_path / "trackio").mkdir()
    (tmp_path / "trackio" / "run.db").symlink_to(tmp_path / "cookies.db")
    told = tracker("trackio")
    told.kdtool_run_start(make_run(tmp_path, name="run"), ())
    with pytest.raises(OSError, match="leads out of"):
        told.kdtool_step_end(make_run(tmp_path, seed=0), kdtool.StepReport(1, 10, 64, 0.5, 1.0, 1e-3, 0.5))
    assert sorted(path.read_bytes() for path in tmp_path.iterdir() if path.is_file()) == before


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
