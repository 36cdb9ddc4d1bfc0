"""The transform `qat`."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

from kdtool_transform_qat._config import QatConfig

__all__ = ["Qat"]


class Qat(kdtool.Transform):
    """Trains with the weights of linear layers rounded to few bits (torchao), so that rounding costs less afterwards."""

    class Config(QatConfig):
        """The grid that weights are rounded to."""

    config: Config

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_transform_qat._grid import Grid

        grid = Grid(student, self.config, run.say)
        yield student
        grid.settle()
