"""Settings of the exporter `gguf`."""

from __future__ import annotations

from typing import Literal

import kdtool

__all__ = ["GGUFConfig"]


class GGUFConfig(kdtool.Config):
    """Settings of the exporter `gguf`."""

    dtype: Literal["q8_0", "f16", "bf16", "f32"] = "q8_0"
    """Data type of the stored weights. `q8_0`: 8 bits, with a scale for every 32 weights."""
    context: int = kdtool.Field(default=4096, ge=16, le=10_000_000)
    """For opened files: maximum tokens of a prompt with its answer; the model's own context is the upper limit."""
    threads: int | None = kdtool.Field(default=None, ge=1, json_schema_extra=kdtool.does_not_affect_results())
    """For opened files: number of CPU threads. None uses llama.cpp's default."""
