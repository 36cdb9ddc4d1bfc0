"""Several processes of one run, as torchrun starts them: rank 0 does the run, the others take part where they are needed.

All of them build the same graph and go through its nodes in the same order. Rank 0 makes each; the others wait until it is
there, and join in the training of a phase. They share the run's folder and the store, and say nothing; where one of them
fails, torchrun ends all.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from kdtool._errors import UsageError
from kdtool._run.artefacts import Artefact
from kdtool._run.graph import Node

__all__ = ["launch", "rank_and_world", "wait_for"]

_GLIMPSE = 0.1
"""Seconds between two looks at whether rank 0 has made something."""


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and how many there are, as torchrun tells them; 0 and 1 without it.

    Raises:
        UsageError: RANK and WORLD_SIZE are set and make no sense.
    """
    told = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, told)
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise UsageError(
            f"RANK={told[0]} and WORLD_SIZE={told[1]} number no process; start several with torchrun, or unset both"
        )
    return rank, world


def launch() -> str:
    """Return what tells the processes that torchrun started together from all others."""
    return " ".join(os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT"))


def wait_for(node: Node, join: Callable[[Path], bool]) -> Artefact:
    """Return the artefact that rank 0 makes; `join` is given its unfinished folder until it says that it took part."""
    unfinished, joined = node.path.with_name(node.path.name + ".partial"), False
    while not node.exists:
        if not joined and unfinished.is_dir():
            joined = join(unfinished)
        time.sleep(_GLIMPSE)
    found = node.where.find(*node.key)
    if found is None:
        raise UsageError(f"{node.path} was there and is gone: another process deleted it while this run used it")
    return found
