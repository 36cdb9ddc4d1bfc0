"""A block in which a model is evaluated."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

__all__ = ["eval_mode"]


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Run without dropout and gradients; afterwards each module is in the mode it was in.

    Not inference_mode: what a model keeps of a pass, such as its rotary frequencies, must serve in training too.
    """
    import torch

    training = [each for each in module.modules() if each.training]  # few or none: setting a mode is slow
    for each in training:
        each.training = False
    try:
        with torch.no_grad():
            yield
    finally:
        for each in training:
            each.training = True
