"""Settings of the exporter `gguf` and of the transform `gguf-grid`, and the names of file types."""

from __future__ import annotations

from typing import Literal, get_args

import kdtool

QuantisedMix = Literal["q4_k_m", "q5_k_m", "q2_k", "q6_k", "q3_k_m", "q4_0", "iq4_xs", "q8_0"]
"""Types with fewer than 16 bits a weight."""
Mix = Literal[QuantisedMix, "f16", "bf16", "f32"]
"""Names of file types, as in `llama-quantize`."""
CALIBRATE = 16384
"""Tokens of training text that an importance matrix is measured on."""
QUANTISED: frozenset[str] = frozenset(get_args(QuantisedMix))
WEIGHTED = QUANTISED - {"q8_0"}
"""Types that an importance matrix changes."""


class GGUFConfig(kdtool.Config):
    """Settings of the exporter `gguf`."""

    type: Mix = "q4_k_m"
    """Type of the stored weights, as `llama-quantize` names it. `q4_k_m`: 4 bits, with 6 for sensitive matrices."""
    imatrix: Literal["text", "none"] = "text"
    """Columns to store more precisely. `text`: those that matter in the run's training text. Types of 8 bits and more need
    none."""
    compare: int = kdtool.Field(default=4096, ge=16, le=10_000_000)
    """Tokens of held-out text to compare the file with the student on."""
    context: int = kdtool.Field(default=4096, ge=16, le=10_000_000)
    """For opened files: maximum tokens of a prompt with its answer; the model's own context is the upper limit."""


class GGUFGridConfig(kdtool.Config):
    """Settings of the transform `gguf-grid`: those of the file that the student will be exported to."""

    type: QuantisedMix = "q4_k_m"
    """Type of the file, as in the exporter `gguf`."""
    imatrix: Literal["text", "none"] = "text"
    """Columns to round more precisely, as in the exporter. `text`: those that matter in the run's training text to the
    student before this phase."""
