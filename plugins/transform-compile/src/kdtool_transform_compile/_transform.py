"""The transform `compile`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from kdtool_transform_compile._layers import CompiledLayers

__all__ = ["Compile"]


class Compile(kdtool.Transform):
    """Compiles the decoder layers with torch.compile, so that a step of a long phase takes less time."""

    def __init__(self, config: Compile.Config) -> None:
        super().__init__(config)
        self._layers: CompiledLayers | None = None

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        from kdtool_transform_compile._machine import missing

        return missing()

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        from kdtool_transform_compile._layers import CompiledLayers

        self._layers = CompiledLayers(student.model)
        return student

    def kdtool_finish(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> kdtool.LanguageModel:
        if self._layers is None:
            raise kdtool.PluginError("compile: kdtool_finish was called without kdtool_transform")
        self._layers.restore()
        self._layers = None
        return student
