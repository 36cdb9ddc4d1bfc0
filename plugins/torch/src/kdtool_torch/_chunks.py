"""Values of many positions from logits that never exist all at once, neither forward nor for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["ELEMENTS", "in_chunks"]

ELEMENTS = 2**23
"""Logits of one chunk: 32 MiB in float32. A loss has some of these alive at once, about ten while it sorts one."""


def in_chunks(values: Callable[[slice], Tensor], count: int, vocabulary: int) -> Tensor:
    """Return `values` of positions 0 to `count`, [count], for one slice of them after the other.

    Nothing is kept of a slice but its values: backward computes it again. `values` is a plain function without chance. It is
    called at least once, for no position, so that all that learns has a gradient on every process.
    """
    import torch

    size = max(1, ELEMENTS // vocabulary)
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)] or [slice(0, 0)]
    return torch.cat([_again(values, part) for part in parts])


def _again(values: Callable[[slice], Tensor], part: slice) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    recomputed: Tensor = checkpoint(values, part, use_reentrant=False, preserve_rng_state=False)
    return recomputed
