"""Bytes of values, passes and stored weights, for estimates. Light: no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import kdtool

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["forward_bytes", "itemsize", "store_as", "stored_bytes"]

_SIZES = {"float32": 4, "bfloat16": 2, "float16": 2, "float64": 8, "int8": 1, "uint8": 1}
_STORED = "kdtool_stored_bytes"


def itemsize(dtype: str) -> int:
    """Return the bytes of a value by the name of its dtype, 4 for an unknown one."""
    return _SIZES.get(dtype, 4)


def forward_bytes(facts: kdtool.ModelFacts, tokens: int, dtype: str) -> int:
    """Return the peak bytes of a forward pass without gradient: one layer's states and its feed-forward."""
    return tokens * itemsize(dtype) * (4 * facts.hidden + 3 * facts.feed_forward)


def store_as(parameter: nn.Parameter, size: int) -> None:
    """Record that an outline's parameter will be stored in `size` bytes, as quantised weights are."""
    setattr(parameter, _STORED, size)


def stored_bytes(parameter: Tensor) -> int:
    """Return the bytes that a parameter of an outline will be stored in."""
    return int(getattr(parameter, _STORED, parameter.numel() * parameter.dtype.itemsize))
