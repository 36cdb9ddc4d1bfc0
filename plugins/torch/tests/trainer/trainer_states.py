"""States of several ranks, for the tests of checkpoints that start processes."""

from __future__ import annotations

from pathlib import Path

import torch
from kdtool_torch.trainer.checkpoint import load_state, own_state
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

WHOLE = {
    "weight": torch.arange(35.0).view(7, 5),
    "one-row": torch.arange(4.0).view(1, 4),
    "bias": torch.arange(3, dtype=torch.bfloat16),
    "count": torch.tensor(7.0),
    "shared": torch.ones(2, 2),
}
DIVIDED = ("weight", "one-row", "bias")


def state(world: int, hybrid: bool) -> dict[str, torch.Tensor]:
    """Return what this rank holds: of 7 rows over 4 ranks the last has one, and of a single row only the first has any."""
    mesh = init_device_mesh("cpu", (2, world // 2) if hybrid else (world,))
    placements = [Replicate(), Shard(0)] if hybrid else [Shard(0)]
    return {
        name: distribute_tensor(tensor, mesh, placements) if name in DIVIDED else tensor.clone()
        for name, tensor in WHOLE.items()
    }


def join(rank: int, world: int, port: int) -> None:
    torch.distributed.init_process_group("gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=world)


def write_as_rank(folder: Path, hybrid: bool, rank: int, world: int, port: int) -> None:
    join(rank, world, port)
    own_state(state(world, hybrid), rank, copy=False).write(folder)
    torch.distributed.destroy_process_group()


def read_as_rank(folder: Path, hybrid: bool, rank: int, world: int, port: int) -> None:
    join(rank, world, port)
    here = state(world, hybrid)
    for tensor in here.values():
        tensor.zero_()
    load_state(folder, here)
    for name, tensor in here.items():
        assert torch.equal(tensor.full_tensor() if isinstance(tensor, DTensor) else tensor, WHOLE[name]), name
    torch.distributed.destroy_process_group()
