"""Two processes that train cases together, started once for all of them."""

from __future__ import annotations

import gc
import json
import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["join_as", "read_gradients", "train_in_two_processes", "write_gradients"]

_PATIENCE = 600.0


def train_in_two_processes(task: Callable[..., None], folder: Path, cases: Sequence[Any]) -> None:
    """Call `task(folder, cases, rank, ports)` in two processes; each case has a store here, as torchrun keeps one.

    A port that is merely free now may be another process's when its case begins, or connect to itself.
    """
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context: Any = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload([task.__module__, "kdtool_torch.trainer.train"])
    stores = [TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False) for _ in cases]
    ports = [store.port for store in stores]
    started = [context.Process(target=task, args=(folder, cases, rank, ports)) for rank in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(_PATIENCE)
    found = [process.exitcode for process in started]
    for process in started:
        process.kill()
    assert found == [0, 0]


def write_gradients(
    train: Callable[[Path, Any, int], list[dict[str, Tensor]]],
    folder: Path,
    cases: Sequence[Any],
    rank: int,
    ports: Sequence[int],
) -> None:
    """Train each case as one of its processes; rank 0 writes the gradients into the folder."""
    torch.set_num_threads(1)
    for case, port in zip(cases, ports, strict=True):
        join_as(rank, case.world, port)
        steps = train(folder / case.name, case, rank)
        if rank == 0:
            flat = {json.dumps([step, name]): grad for step, own in enumerate(steps) for name, grad in own.items()}
            save_file(flat, folder / f"{case.name}.safetensors")
        gc.collect()  # a DDP module that is collected later may end the group while its thread waits for the interpreter
        torch.distributed.destroy_process_group()


def read_gradients(file: Path) -> list[dict[str, Tensor]]:
    """Return the gradients of each step that rank 0 wrote."""
    found: dict[int, dict[str, Tensor]] = {}
    for key, gradient in load_file(file).items():
        step, name = json.loads(key)
        found.setdefault(step, {})[name] = gradient
    return [found[step] for step in sorted(found)]


def join_as(rank: int, world: int, port: int) -> None:
    """Be this rank of the processes that meet at the store of a case."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()}, TORCHELASTIC_USE_AGENT_STORE="True")
