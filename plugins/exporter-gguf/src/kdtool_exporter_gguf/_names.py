"""Names of a model's parts in GGUF files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gguf

__all__ = ["names_in_file"]


def names_in_file(config: Any) -> Callable[[str], str]:
    """Return a function from the name of a module in transformers to its name in a file, "" if it has none."""
    arch = gguf.MODEL_ARCH.__members__.get(config.model_type.upper(), gguf.MODEL_ARCH.LLAMA)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    return lambda name: names.get_name(name) or ""
