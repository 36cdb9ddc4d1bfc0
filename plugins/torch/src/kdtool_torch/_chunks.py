"""Values of many positions from logits that never exist all at once, neither forward nor for the gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["elements_at_once", "in_chunks"]

_LEAST, _MOST = 2**23, 2**27
"""Logits of one chunk: 32 MiB in float32 suit the caches of a CPU, and 512 MiB keep any GPU busy."""
_SHARE = 16
"""Part of a GPU's memory that a loss may take: it has some of these alive at once, about ten while it sorts one."""


def elements_at_once(device: torch.device) -> int:
    """Return how many logits, or numbers of their kind, a chunk should have on this device."""
    import torch

    if device.type != "cuda":
        return _LEAST
    memory: int = torch.cuda.get_device_properties(device).total_memory
    return min(max(memory // (_SHARE * 10 * 4), _LEAST), _MOST)


def in_chunks(
    values: Callable[[slice], Tensor], count: int, vocabulary: int, device: torch.device | None = None
) -> Tensor:
    """Return `values` of positions 0 to `count`, [count], for one slice of them after the other.

    A slice has as many positions as suit `device`, where they are computed; None is the CPU.

    Nothing is kept of a slice but its values: backward computes it again. `values` is a plain function without chance. It is
    called at least once, for no position, so that all that learns has a gradient on every process.
    """
    import torch

    size = max(1, elements_at_once(device or torch.device("cpu")) // vocabulary)
    parts = [slice(start, min(start + size, count)) for start in range(0, count, size)] or [slice(0, 0)]
    return torch.cat([_again(values, part) for part in parts])


def _again(values: Callable[[slice], Tensor], part: slice) -> Tensor:
    from torch.utils.checkpoint import checkpoint

    recomputed: Tensor = checkpoint(values, part, use_reentrant=False, preserve_rng_state=False)
    return recomputed
