"""The transform `gguf-grid`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import kdtool

from kdtool_exporter_gguf._config import GGUFGridConfig

if TYPE_CHECKING:
    from kdtool_exporter_gguf._grid import Grid

__all__ = ["GGUFGrid"]


class GGUFGrid(kdtool.Transform):
    """Trains with the weights that a GGUF file of a type would contain, so that the export changes them little."""

    class Config(GGUFGridConfig):
        """Settings of the transform `gguf-grid`: those of the file that the student will be exported to."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._grid: Grid | None = None

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        facts = None if ahead.phase is None else ahead.phase.facts
        if ahead.phase is not None and facts is not None:
            yield kdtool.Estimate("rounded weights", (ahead.phase.stage,), compute_bytes=2 * 4 * facts.parameters)

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_exporter_gguf._grid import Grid

        self._grid = Grid(student, self.config, run)
        return student

    def kdtool_finish(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        if self._grid is None:
            raise kdtool.PluginError("gguf-grid: kdtool_finish was called without kdtool_transform")
        self._grid.settle()
        self._grid = None
        return student
