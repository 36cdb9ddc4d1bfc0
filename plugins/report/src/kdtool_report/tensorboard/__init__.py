"""The tracker `tensorboard`: event files in the run's folder.

Each series has a folder, with a file for each phase and one for the measurements.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import kdtool
from kdtool_essentials.curves import CurvesTracker

if TYPE_CHECKING:
    from kdtool_report.tensorboard.events import EventFile


class TensorBoardTracker(CurvesTracker):
    """Writes curves, measurements and samples as event files into `tensorboard` in the run's folder.

    To open them: `pip install tensorboard`, then `tensorboard --logdir runs/NAME/tensorboard`.
    """

    extra = "tensorboard"

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._root = Path()
        self._files: dict[tuple[str, str], EventFile] = {}

    def begin(self, run: kdtool.RunInfo) -> str:
        self._root, self._files = run.folder / "tensorboard", {}
        return f"tensorboard --logdir {quote(str(self._root))}"

    def log_step(self, series: str, phase: str, report: kdtool.StepReport, values: Mapping[str, float]) -> None:
        from kdtool_report.tensorboard.events import EventFile, scalars

        if (series, phase) not in self._files:
            self._files[series, phase] = EventFile(self._root / _file_name(series), f"phase-{_file_name(phase)}")
        self._files[series, phase].add(report.step, report.seconds, scalars(values))

    def log_results(
        self, series: str, measurements: Sequence[kdtool.Measurement], settings: Mapping[str, bool | int | float | str]
    ) -> None:
        from kdtool_report.tensorboard.events import results, write_summaries

        about = {"model": series, **settings}
        write_summaries(self._root / _file_name(series), "measurements", results(measurements, about))


def _file_name(name: str) -> str:
    """Return a name that any file system takes."""
    return re.sub(r"[^\w.-]+", "-", name)[:80]
