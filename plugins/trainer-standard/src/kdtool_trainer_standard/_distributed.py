"""Processes that train together: their group, and averaged gradients."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from datetime import timedelta
from typing import Any

import kdtool
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous
from torch.nn.parallel import DistributedDataParallel

__all__ = ["PATIENCE", "average_gradients", "join_group", "micro_batch_sync", "refuse_other_dtypes"]

PATIENCE = timedelta(days=1)
"""Time that ranks wait for rank 0, which may ask for and run thousands of programs while it validates."""
_PRESENT = "kdtool/present"
"""The key of the launcher's store that counts the processes which have opened it."""
_GLIMPSE = 0.05
"""Seconds between two looks at it."""


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
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        store, rank, world = next(rendezvous("env://", timeout=PATIENCE))
        _wait_for_all(store, world)
        dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=world)
    if dist.get_world_size() != run.world:
        raise kdtool.UsageError(
            f"{run.world} processes were expected, but torch.distributed has {dist.get_world_size()}; start them by torchrun"
        )


def refuse_other_dtypes(run: kdtool.RunInfo, dtype: str) -> None:
    """Refuse processes whose products have other dtypes, which `dtype: auto` may choose on unequal machines.

    Raises:
        UsageError: on every rank.
    """
    if run.world == 1:
        return
    dtypes: list[str] = [dtype] * run.world
    dist.all_gather_object(dtypes, dtype)
    if len({*dtypes}) > 1:
        raise kdtool.UsageError(
            f"the processes would compute in {', '.join(dtypes)}, which `dtype: auto` chooses on their machines; set the "
            "trainer's dtype to one of these"
        )


def _wait_for_all(store: Any, world: int) -> None:
    """Wait until `world` processes have opened the launcher's store.

    PyTorch waits for them, too, but no signal handler runs during its wait: torchrun needs 30 s to end a process that waits
    for a lost one.
    """
    present = store.add(_PRESENT, 1)
    while present < world:
        time.sleep(_GLIMPSE)
        present = store.add(_PRESENT, 0)


def average_gradients(module: nn.Module, device: torch.device) -> DistributedDataParallel:
    """Return the module with gradients that are averaged over all ranks after backward (DDP)."""
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def micro_batch_sync(model: nn.Module, last: bool) -> AbstractContextManager[None]:
    """Return a context in which a step's gradients are exchanged in its `last` micro-batch only, where `model` is DDP."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()
