"""The transform `compile`."""

from __future__ import annotations

from collections.abc import Iterator

import kdtool

__all__ = ["Compile"]


class Compile(kdtool.Transform):
    """Compiles the decoder layers with torch.compile, so that a step of a long phase takes less time."""

    def kdtool_check(self, run: kdtool.RunInfo, when: str) -> list[str]:
        from kdtool_transform_compile._machine import missing

        return missing()

    def kdtool_transform(self, student: kdtool.LanguageModel, run: kdtool.RunInfo) -> Iterator[kdtool.LanguageModel]:
        from kdtool_transform_compile._layers import CompiledLayers

        layers = CompiledLayers(student.model)
        yield student
        layers.restore()
