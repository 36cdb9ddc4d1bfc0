"""The student with the weights of a file: what its graph must compute, up to the order of sums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from kdtool_exporter_web._blocks import from_blocks, to_blocks
from kdtool_exporter_web._graph import bits_of

__all__ = ["rounded_weights"]


@contextmanager
def rounded_weights(model: Any, dtype: str) -> Iterator[None]:
    """Give a model of transformers the weights of a file of this type, until the end of the block."""
    matrices = {name: weight for name, weight in model.named_parameters() if weight.ndim == 2}
    kept = {name: weight.data for name, weight in matrices.items()}
    try:
        for name, weight in matrices.items():
            bits = bits_of(name, dtype)
            blocks = to_blocks(kept[name].numpy(), bits)
            weight.data = torch.from_numpy(from_blocks(blocks, bits, weight.shape[1]))
        yield
    finally:
        for name, weight in matrices.items():
            weight.data = kept[name]
