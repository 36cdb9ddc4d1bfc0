"""The transform `qat`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

from kdtool_transform_qat._config import QatConfig

if TYPE_CHECKING:
    from kdtool_transform_qat._grid import Grid

__all__ = ["Qat"]


class Qat(kdtool.Transform):
    """Trains with the weights of linear layers rounded to few bits (torchao), so that rounding costs less afterwards."""

    class Config(QatConfig):
        """The grid that weights are rounded to."""

    config: Config

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self._grid: Grid | None = None

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_transform_qat._grid import Grid

        self._grid = Grid(student, self.config, run.say)
        return student

    def kdtool_finish(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        if self._grid is None:
            raise kdtool.PluginError("qat: kdtool_finish was called without kdtool_transform")
        self._grid.settle()
        self._grid = None
        return student
