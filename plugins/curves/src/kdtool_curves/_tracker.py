"""The base class: turns the events of a run into steps of named series, and into measurements of named models."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import kdtool

from kdtool_curves._figures import Setting, figures, main_settings

__all__ = ["CurvesTracker"]


class CurvesTracker(kdtool.Tracker):
    """Base of trackers with a series for each arm and seed, such as `student-seed0`, and for each model measured.

    A subclass implements `begin`, `log_step` and `log_results`. Events before `kdtool_run_start` are dropped.

    A phase logs some steps twice: a resumed one those since its last checkpoint, a repeated one all. So a step replaces
    itself and every later step of its phase that is recorded already. Replaying a run's events changes nothing.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._folder: Path | None = None
        self._stages: Sequence[str] = ()
        self._measured: dict[str, list[kdtool.Measurement]] = {}

    def begin(self, run: kdtool.RunInfo) -> None:
        """A run begins, or a resumed one continues, in `run.folder`."""
        raise NotImplementedError

    def log_step(self, series: str, phase: str, report: kdtool.StepReport, values: Mapping[str, float]) -> None:
        """Record the `values` of a step, by name, and forget this step and later ones of the same series and phase."""
        raise NotImplementedError

    def log_results(
        self, series: str, measurements: Sequence[kdtool.Measurement], settings: Mapping[str, Setting]
    ) -> None:
        """Record all measurements of a model in place of earlier ones, with the recipe's main settings."""
        raise NotImplementedError

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        self._folder, self._stages, self._measured = run.folder, [stage.name for stage in stages], {}
        self.begin(run)

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        if self._folder is not None:
            series, phase = _place(run)
            self.log_step(series, phase, report, {f"{phase}/{name}": value for name, value in figures(report).items()})

    def kdtool_measurement(self, run: kdtool.RunInfo, measurement: kdtool.Measurement) -> None:
        self._measured.setdefault(self._series_of(measurement.subject), []).append(measurement)

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        if self._folder is not None:
            settings = main_settings(self._folder)
            for series, measurements in self._measured.items():
                self.log_results(series, measurements, settings)
        self._folder = None

    def _series_of(self, subject: str) -> str:
        """Return the series of a model: that of its training, also if it is called "student" because there is one seed."""
        pattern = re.compile(rf"phases/({re.escape(subject)}-seed\d+)-")
        trained = {found[1] for stage in self._stages if (found := pattern.match(stage))}
        return trained.pop() if len(trained) == 1 else subject


def _place(run: kdtool.RunInfo) -> tuple[str, str]:
    """Return the series and the phase of a step. A teacher has one seed, which its names leave out."""
    series = run.arm if run.stage == "teachers" else f"{run.arm}-seed{run.seed}"
    return series, run.phase or run.label.removeprefix(f"{series}-") or "train"
