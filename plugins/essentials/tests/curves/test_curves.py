"""Series and steps have the same names in a run, a resumed one and a replay; numbers and settings are named."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool
import pytest
from kdtool_essentials.curves import CurvesTracker, figures, main_settings, samples_text
from kdtool_testing import make_run

NAN = float("nan")
TERMS = {
    "ce": kdtool.TermReport(2.0, 0.5, 0.3),
    "kl": kdtool.TermReport(1.0, 1.0, 0.1),
    "l": kdtool.TermReport(3.0, 1.0),
}
REPORT = kdtool.StepReport(3, 10, 600, 2.0, 4.2, 1e-3, NAN, TERMS, {"perplexity.bits": 1.5}, 3 << 29)


class Listed(CurvesTracker):
    def __init__(self) -> None:
        super().__init__(CurvesTracker.Config())
        self.steps: list[tuple[str, str, int]] = []
        self.results: dict[str, list[str]] = {}
        self.settings: Mapping[str, Any] = {}

    def begin(self, run: kdtool.RunInfo) -> str:
        self.steps, self.results = [], {}
        return "view them"

    def log_step(self, series: str, phase: str, report: kdtool.StepReport, values: Mapping[str, float]) -> None:
        assert values[f"{phase}/loss"] == report.loss
        self.steps.append((series, phase, report.step))

    def log_results(
        self, series: str, measurements: Sequence[kdtool.Measurement], settings: Mapping[str, bool | int | float | str]
    ) -> None:
        self.results[series] = [found.name for found in measurements]
        self.settings = settings


def measured(subject: str, name: str = "bits") -> kdtool.Measurement:
    return kdtool.Measurement(name, subject, "bits", 1.0, 4, False)


def planned(*names: str) -> list[kdtool.StageRecord]:
    return [kdtool.StageRecord(name, "f", 0.0, reused=False, path=Path(name)) for name in names]


def test_numbers_of_a_step_are_named() -> None:
    found = figures(REPORT)
    assert str(found.pop("gradient_norm")) == "nan"
    assert found == {
        "loss": 4.2, "learning_rate": 1e-3, "tokens": 600.0, "seconds": 2.0, "tokens_per_second": 300.0,
        "terms/ce": 2.0, "weights/ce": 0.5, "gradient_norms/ce": 0.3, "gradient_shares/ce": pytest.approx(0.75),
        "terms/kl": 1.0, "weights/kl": 1.0, "gradient_norms/kl": 0.1, "gradient_shares/kl": pytest.approx(0.25),
        "terms/l": 3.0, "weights/l": 1.0, "validation/perplexity.bits": 1.5,
        "memory_gib": 1.5,
    }  # fmt: skip
    assert "tokens_per_second" not in figures(kdtool.StepReport(0, 0, 0, 0.0, NAN, NAN, NAN))


@pytest.mark.parametrize("phase", ["warm-up", ""], ids=["in a run", "in a replay, which knows the label alone"])
def test_series_and_phase_of_a_step(tmp_path: Path, phase: str) -> None:
    tracker = Listed()
    tracker.kdtool_run_start(make_run(tmp_path), ())
    place: dict[str, Any] = {"stage": "phases", "label": "control-time-seed2-warm-up", "arm": "control-time", "seed": 2}
    tracker.kdtool_step_end(make_run(tmp_path, **place, phase=phase), REPORT)
    place = {"stage": "teachers", "label": "teachers.big-warm-up", "arm": "teachers.big"}
    tracker.kdtool_step_end(make_run(tmp_path, **place, phase=phase), REPORT)
    assert tracker.steps == [("control-time-seed2", "warm-up", 3), ("teachers.big", "warm-up", 3)]


def test_measurements_join_the_series_that_was_trained(tmp_path: Path) -> None:
    tracker, run = Listed(), make_run(tmp_path)
    tracker.kdtool_run_start(
        run, planned("text", "phases/student-seed3-train", "phases/control-seed0-a", "phases/control-seed1-a")
    )
    for subject in ("student", "control-seed1", "teacher", "student-gguf"):
        tracker.kdtool_measurement(run, measured(subject))
    tracker.kdtool_measurement(run, measured("student", "words"))
    assert tracker.results == {}
    tracker.kdtool_run_end(run, "done", None)
    assert tracker.results == {
        "student-seed3": ["bits", "words"], "control-seed1": ["bits"], "teacher": ["bits"], "student-gguf": ["bits"],
    }  # fmt: skip


def test_main_settings_come_from_the_results(tmp_path: Path) -> None:
    assert main_settings(tmp_path) == {}
    recipe = {
        "name": "x", "train": {"train": {"steps": 5, "losses": {"ce": {"weight": 0.5}}}}, "evaluators": {"samples": {}},
        "student": {"use": "pruned", "keep": [0, 2], "layers": None, "tie": True},
    }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps({"recipe": recipe}))
    assert main_settings(tmp_path) == {
        "student.use": "pruned", "student.keep": "[0, 2]", "student.tie": True,
        "train.train.steps": 5, "train.train.losses.ce.weight": 0.5,
    }  # fmt: skip


def test_samples_are_shown_as_they_are() -> None:
    assert samples_text(measured("student")) == ""
    found = kdtool.Measurement("s", "student", "", 1.0, 1, True, texts={"def f(": "x):\n```\n\ud800"})
    assert samples_text(found).endswith("**Completion**\n\n    x):\n    ```\n    ?")
