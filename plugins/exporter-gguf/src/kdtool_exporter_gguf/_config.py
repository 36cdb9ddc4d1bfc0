"""Settings of the exporter `gguf`."""

from __future__ import annotations

from typing import Literal

import kdtool

__all__ = ["GGUFConfig"]


class GGUFConfig(kdtool.Config):
    """Settings of the exporter `gguf`."""

    dtype: Literal["q8_0", "f16", "bf16", "f32"] = "q8_0"
    """What weights are stored in. `q8_0`: 8 bits, with a scale for every 32."""
    context: int = kdtool.Field(default=4096, ge=16, le=10_000_000)
    """When a file is opened: tokens of a prompt and its answer at most, and no more than the model's own context."""
    threads: int | None = kdtool.Field(default=None, ge=1, json_schema_extra=kdtool.does_not_affect_results())
    """When a file is opened: threads of the processor. None leaves them to llama.cpp."""
