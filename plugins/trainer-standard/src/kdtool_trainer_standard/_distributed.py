"""Processes that train together: their group, and averaged gradients."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta

import kdtool
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

__all__ = ["average_gradients", "join_group", "micro_batch_sync"]

_PATIENCE = timedelta(days=1)
"""Time that ranks wait for rank 0, which may ask for and run thousands of programs while it validates."""


def join_group(run: kdtool.RunInfo, device: torch.device) -> None:
    """Join the process group that the launcher's environment describes; a single process needs none.

    Raises:
        UsageError: the group has another number of processes than the run.
    """
    if run.world == 1:
        return
    if not dist.is_initialized():
        if device.type == "cuda":
            torch.cuda.set_device(device.index or 0)
        dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=_PATIENCE)
    if dist.get_world_size() != run.world:
        raise kdtool.UsageError(
            f"{run.world} processes were expected, but torch.distributed has {dist.get_world_size()}; start them by torchrun"
        )


def average_gradients(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Return the module with gradients that are averaged over all ranks after backward (DDP)."""
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def micro_batch_sync(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return a context in which a step's gradients are exchanged in its `last` micro-batch only, where `model` is DDP."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()
