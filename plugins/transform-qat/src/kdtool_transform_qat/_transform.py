"""The transform `qat`: a phase learns with weights rounded to a grid of few bits, and leaves weights that lie on it.

`_grid` puts torchao's fake-quantised layers into the model and takes them out again. What is saved is a plain model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool
from kdtool import Field

if TYPE_CHECKING:
    from kdtool_transform_qat._grid import Grid

__all__ = ["Qat"]


class Qat(kdtool.Transform):
    """Trains with the weights of linear layers rounded to few bits (torchao), so that rounding costs less afterwards."""

    class Config(kdtool.Config):
        """The grid that weights are rounded to."""

        bits: int = Field(4, ge=2, le=8)
        """Bits of a weight: it takes one of 2^bits values between the least and the greatest of its group."""
        group_size: int = Field(32, ge=2)
        """Weights of a row that share a scale and an offset. Layers whose rows are no multiple of it stay as they are."""

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
