"""The tracker `trackio`: a trackio run for each series."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import kdtool
from kdtool import Field
from kdtool_curves import CurvesTracker, samples_text

from kdtool_tracker_trackio._database import Database, TrackioRun

__all__ = ["TrackioTracker"]


class TrackioTracker(CurvesTracker):
    """Writes curves, measurements and samples into a trackio project named as the run, below the run's folder.

    To open it: `pip install trackio`, then `TRACKIO_DIR=runs/NAME/trackio trackio show`.
    """

    class Config(kdtool.Config):
        """The place of the project."""

        folder: kdtool.RecipePath | None = Field(None, json_schema_extra=kdtool.does_not_affect_results())
        """Folder of trackio's databases, such as `~/.cache/huggingface/trackio`, so that one dashboard shows many runs.
        None: `trackio` in the run's folder."""
        project: str | None = Field(None, min_length=1, json_schema_extra=kdtool.does_not_affect_results())
        """Name of the project, so that several runs share one. None: the run's name."""

    config: Config

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._name = ""
        self._database = Database(Path(), "")

    def begin(self, run: kdtool.RunInfo) -> None:
        self._name = run.name
        self._database = Database(self.config.folder or run.folder / "trackio", self.config.project or run.name)

    def log_step(self, series: str, phase: str, report: kdtool.StepReport, values: Mapping[str, float]) -> None:
        self._database.log(self._run(series), f"phase-{phase}", report.step, values)

    def log_results(
        self, series: str, measurements: Sequence[kdtool.Measurement], settings: Mapping[str, bool | int | float | str]
    ) -> None:
        run = self._run(series)
        self._database.log(run, "measurements", 0, dict(_values(measurements)))
        self._database.configure(run, settings)

    def _run(self, series: str) -> TrackioRun:
        """Return the trackio run of a series. Its id stays the same, and so does its name unless `project` changes."""
        name = f"{self._name}-{series}" if self.config.project else series
        return TrackioRun(f"{self._name}-{series}", name, re.sub(r"-seed\d+$", "", series))


def _values(measurements: Sequence[kdtool.Measurement]) -> Iterator[tuple[str, Any]]:
    """Yield the measurements with their intervals, and their texts as Markdown."""
    for found in measurements:
        yield f"measurements/{found.name}", found.value
        bounds = {"low": found.low, "high": found.high}
        yield from ((f"measurements/{found.name}/{end}", value) for end, value in bounds.items() if value is not None)
        if text := samples_text(found):
            yield f"samples/{found.name}", {"_type": "trackio.markdown", "_value": text}
