"""The transform `gguf-grid`."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

from kdtool_exporter_gguf._config import GGUFGridConfig

__all__ = ["GGUFGrid"]


class GGUFGrid(kdtool.Transform):
    """Trains with the weights that a GGUF file of a type would contain, so that the export changes them little."""

    class Config(GGUFGridConfig):
        """Settings of the transform `gguf-grid`: those of the file that the student will be exported to."""

    config: Config

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        facts = None if ahead.phase is None else ahead.phase.facts
        if ahead.phase is not None and facts is not None:
            yield kdtool.Estimate("rounded weights", (ahead.phase.stage,), compute_bytes=2 * 4 * facts.parameters)

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_exporter_gguf._grid import Grid

        grid = Grid(student, self.config, run)
        yield student
        grid.settle()
