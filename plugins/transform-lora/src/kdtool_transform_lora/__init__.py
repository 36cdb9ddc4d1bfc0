"""The transforms `lora` and `qlora`: a phase trains low-rank adapters on frozen weights, and merges them at its end.

`_adapters` puts adapters into the model and merges them, with peft's layers; `_nf4` stores frozen weights in 4 bits, with
bitsandbytes. The model object stays the student's own, so trainers see backbone and head as they were.
"""

from __future__ import annotations

from kdtool_transform_lora._transforms import Lora, Qlora

__all__ = ["Lora", "Qlora"]
