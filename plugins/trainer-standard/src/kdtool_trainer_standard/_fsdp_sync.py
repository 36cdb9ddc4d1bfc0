"""Backward passes within forward when FSDP shards a module."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.distributed.fsdp import FSDPModule

__all__ = ["no_fsdp_sync"]


@contextmanager
def no_fsdp_sync(module: nn.Module) -> Iterator[None]:
    """Disable FSDP resharding and gradient sync inside forward, for measuring the gradients of single terms."""
    if not isinstance(module, FSDPModule):
        yield
        return
    module.set_is_last_backward(False)
    module.set_requires_gradient_sync(False)
    module.set_reshard_after_backward(False)
    try:
        yield
    finally:
        module.set_is_last_backward(True)
        module.set_requires_gradient_sync(True)
        module.set_reshard_after_backward(True)
