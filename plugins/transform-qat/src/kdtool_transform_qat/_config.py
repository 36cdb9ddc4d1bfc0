"""The grid that weights are rounded to."""

from __future__ import annotations

import kdtool
from kdtool import Field

__all__ = ["QatConfig"]


class QatConfig(kdtool.Config):
    """The grid that weights are rounded to."""

    bits: int = Field(4, ge=2, le=8)
    """Bits of a weight: it takes one of 2^bits values between the least and the greatest of its group."""
    group_size: int = Field(32, ge=2)
    """Weights of a row that share a scale and an offset. Layers with rows of another length are not quantised."""
