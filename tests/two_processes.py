"""Two processes that train cases together, started once for all of them."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch.distributed import TCPStore  # type: ignore[attr-defined]

__all__ = ["join_as", "train_in_two_processes"]

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


def join_as(rank: int, world: int, port: int) -> None:
    """Be this rank of the processes that meet at the store of a case."""
    where = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in where.items()}, TORCHELASTIC_USE_AGENT_STORE="True")
