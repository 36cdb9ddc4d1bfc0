"""TensorBoard's own reader finds every number, once, in runs that are killed, resumed, repeated and replayed."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path
from types import MappingProxyType
from typing import Any

import kdtool
import pytest
from kdtool._cli import call
from kdtool_report.tensorboard import TensorBoardTracker
from kdtool_testing import TrackerConformance, make_run
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

INFINITY = float("inf")


class TestTensorBoardTracker(TrackerConformance):
    component = TensorBoardTracker
    entry_point = "tensorboard"


def tracker() -> TensorBoardTracker:
    return TensorBoardTracker(TensorBoardTracker.Config())


def report(step: int, loss: float | None = None) -> kdtool.StepReport:
    return kdtool.StepReport(step, 10, step * 64, step / 2, float(step) if loss is None else loss, 1e-3, 0.5)


def train(run: kdtool.RunInfo, *steps: int, phase: str = "train", loss: float | None = None) -> None:
    """Log steps in a process of their own, which is killed at the end: nothing is closed."""
    told = tracker()
    told.kdtool_run_start(run, ())
    place: dict[str, Any] = {"stage": "phases", "phase": phase, "label": f"student-seed0-{phase}"}
    for step in steps:
        told.kdtool_step_end(make_run(run.folder, **place), report(step, loss))


def read(folder: Path, series: str = "student-seed0") -> EventAccumulator:
    return EventAccumulator(str(folder / "tensorboard" / series), size_guidance={"scalars": 0, "tensors": 0}).Reload()


def losses(folder: Path, phase: str = "train") -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(f"{phase}/loss")]


def files(folder: Path) -> list[Path]:
    return sorted((folder / "tensorboard").glob("*/*"))


def test_a_resumed_run_continues_its_curve(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2, 4, 6)
    train(run, 4, 6, 8, loss=7.0)
    train(run, 10)
    assert losses(tmp_path) == [(1, 1.0), (2, 2.0), (4, 7.0), (6, 7.0), (8, 7.0), (10, 10.0)]
    assert len(files(tmp_path)) == 1


def test_its_documentation_says_how_to_open_the_files(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["plugins", "show", "tensorboard"]) == 0
    assert "tensorboard --logdir runs/NAME/tensorboard" in capsys.readouterr().out


def test_a_phase_that_is_trained_again_replaces_its_curve_and_no_other(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2, 3, phase="first")
    train(run, 1, 2, 3, phase="second")
    train(run, 1, 2, phase="second", loss=9.0)
    assert losses(tmp_path, "first") == [(1, 1.0), (2, 2.0), (3, 3.0)]
    assert losses(tmp_path, "second") == [(1, 9.0), (2, 9.0)]


def test_a_replay_in_one_process_changes_nothing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2, 3, 4, 3, 4, 5)
    first = losses(tmp_path)
    train(run, 1, 2, 3, 4, 3, 4, 5)
    assert losses(tmp_path) == first == [(step, float(step)) for step in range(1, 6)]


@pytest.mark.parametrize("lost", [1, 9, 30, 150])
def test_a_torn_record_is_cut_off(tmp_path: Path, lost: int) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2)
    (path,) = files(tmp_path)
    whole = path.read_bytes()
    train(run, 3)
    (path,) = files(tmp_path)
    content = path.read_bytes()
    assert lost < len(content) - len(whole)
    path.write_bytes(content[:-lost])
    train(run, 4)
    assert losses(tmp_path) == [(1, 1.0), (2, 2.0), (4, 4.0)]


def test_bytes_that_a_power_failure_left_are_cut_off(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 1, 2)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes() + bytes(64))
    train(run, 3)
    assert losses(tmp_path) == [(1, 1.0), (2, 2.0), (3, 3.0)]


def test_odd_numbers_are_kept(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    for step, number in enumerate((INFINITY, -INFINITY, float("nan"), 0.1), start=1):
        train(run, step, loss=number)
    single = struct.unpack("f", struct.pack("f", 0.1))[0]
    assert [str(value) for _, value in losses(tmp_path)] == ["inf", "-inf", "nan", str(single)]


def test_relative_time_leaves_an_interruption_out(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    train(run, 2, 4)
    train(run, 6)
    times = [event.wall_time for event in read(tmp_path).Scalars("train/loss")]
    assert [round(time - times[0], 3) for time in times] == [0.0, 1.0, 2.0]


def test_measurements_texts_and_settings_are_replaced_as_a_whole(tmp_path: Path) -> None:
    (tmp_path / "results.json").write_text('{"recipe": {"train": {"train": {"steps": 5}}, "student": {"use": "gpt"}}}')
    for value in (1.5, 2.5):
        told, run = tracker(), make_run(tmp_path)
        told.kdtool_run_start(run, ())
        found: dict[str, Any] = {"low": 1.0, "high": 3.0, "texts": MappingProxyType({"def f(": "x): pass"})}
        told.kdtool_measurement(run, kdtool.Measurement("bits", "student", "bits", value, 4, False, **found))
        told.kdtool_run_end(run, "done", None)
    events = read(tmp_path, "student")
    scalars = {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}
    assert scalars == {"measurements/bits": [2.5], "measurements/bits/low": [1.0], "measurements/bits/high": [3.0]}
    (text,) = events.Tensors("bits/text_summary")
    assert b"    def f(" in text.tensor_proto.string_val[0]
    start = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/session_start_info").plugin_data.content)
    settings = start.session_start_info.hparams
    assert settings["model"].string_value == "student"
    assert settings["student.use"].string_value == "gpt"
    assert settings["train.train.steps"].number_value == 5
    experiment = HParamsPluginData.FromString(events.SummaryMetadata("_hparams_/experiment").plugin_data.content)
    assert [metric.name.tag for metric in experiment.experiment.metric_infos] == ["measurements/bits"]
    assert len(files(tmp_path)) == 1


def test_names_that_no_file_system_takes_become_folders(tmp_path: Path) -> None:
    told = tracker()
    told.kdtool_run_start(make_run(tmp_path), ())
    told.kdtool_step_end(make_run(tmp_path, arm="../a\x00b " * 200, phase="../../x"), report(1))
    told.kdtool_close()
    (path,) = files(tmp_path)
    assert path.resolve().is_relative_to(tmp_path / "tensorboard")


def test_the_library_is_imported_where_it_is_used(tmp_path: Path) -> None:
    program = "import sys, kdtool_report.tensorboard as t; t.TensorBoardTracker(t.TensorBoardTracker.Config())"
    program += "; print([name for name in ('tensorboardX', 'numpy', 'tensorboard') if name in sys.modules])"
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert told.stdout.strip() == "[]"
