"""The small model on plain torch, for modules that must not import torch themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kdtool_testing.toy.torch_model import ToyModel

__all__ = ["toy_model"]


def toy_model(seed: int = 0) -> ToyModel:
    """Return a small causal language model on plain torch, with bytes as tokens and dropout between its blocks."""
    from kdtool_testing.toy.torch_model import ToyModel

    return ToyModel(seed)
