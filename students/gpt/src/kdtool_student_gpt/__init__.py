"""Student plugin `gpt`, and the library of decoders that start from random weights or are cut to a shape.

`Gpt` is a decoder with the recipe's number of parameters. Other students use the parts that it is made of:

- `LlamaStudent` is a complete student for plugins that only define its shape (`LlamaShape`)
- `best_shape` finds the shape for a wanted number of parameters; `ParameterCount` is the type of a setting that counts them
- `kernel_notes` and `uses_of` return notes on widths that do not suit kernels and K-quants

Light: torch and transformers load in hooks.
"""

from __future__ import annotations

from kdtool_transformers.sizes import (
    KERNEL_MULTIPLE,
    QUANT_MULTIPLE,
    TOLERANCE,
    ParameterCount,
    best_shape,
    kernel_notes,
    readable_count,
    uses_of,
)

from kdtool_student_gpt._llama import LlamaShape
from kdtool_student_gpt._student import Gpt, LlamaStudent, LlamaStudentConfig

__all__ = [
    "KERNEL_MULTIPLE",
    "QUANT_MULTIPLE",
    "TOLERANCE",
    "Gpt",
    "LlamaShape",
    "LlamaStudent",
    "LlamaStudentConfig",
    "ParameterCount",
    "best_shape",
    "kernel_notes",
    "readable_count",
    "uses_of",
]
