"""Several processes of one run, as torchrun starts them: rank 0 does the run, the others take part where they are needed.

All of them build the same graph (`rank_agreement` compares them) and go through its nodes in the same order. Rank 0 makes
each; the others wait for it, and join in the training of a phase. They share the run's folder and the store, and show no
messages. Where one of them fails, torchrun ends all; where rank 0 is gone, the others end by themselves.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdtool._errors import UsageError
from kdtool._run.graph import Node
from kdtool._store.artefacts import Artefact
from kdtool._store.atomic_files import write_beside

_BEGUN = ".begun"
"""The file in an unfinished folder that names the rank 0 which fills it."""
_GLIMPSE = 0.1
"""Seconds between two looks at the folder that rank 0 makes."""
_BETWEEN_LOOKS_AT_RANK_0 = 1.0
"""Seconds between two looks at the lock of rank 0."""


def rank_and_world() -> tuple[int, int]:
    """Return this process's number and their count, as torchrun sets them; 0 and 1 without it.

    Raises:
        UsageError: RANK and WORLD_SIZE are set to impossible values.
    """
    given = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    try:
        rank, world = map(int, given)
    except ValueError:
        rank, world = -1, 0
    if not 0 <= rank < world:
        raise UsageError(
            f"RANK={given[0]} and WORLD_SIZE={given[1]} are invalid: expected whole numbers with 0 ≤ RANK < WORLD_SIZE; "
            "start several with torchrun, or unset both"
        )
    return rank, world


@contextmanager
def invite_ranks(folder: Path, leader: dict[str, Any] | None) -> Iterator[None]:
    """Let the other ranks of the run that `leader` leads join in filling a folder, now that a killed run's rest is gone.

    A run that has one process, or another run that waits for the same artefact, never joins.
    """
    begun = folder / _BEGUN
    if leader is not None:
        write_beside(begun, json.dumps(leader))
    yield
    begun.unlink(missing_ok=True)


def may_join(folder: Path, leader: dict[str, Any] | None) -> bool:
    """Return whether the rank 0 that was agreed on has begun to fill the folder."""
    try:
        return bool(json.loads((folder / _BEGUN).read_text(encoding="utf-8")) == leader)
    except (OSError, ValueError):
        return False


def has_ended(folder: Path) -> bool:
    """Return whether rank 0 no longer fills the folder that this rank joined in."""
    return not (folder / _BEGUN).exists()


def wait_for(node: Node, join: Callable[[Path], bool], is_led: Callable[[], bool]) -> Artefact:
    """Return the artefact that rank 0 makes; `join` is called with its unfinished folder until it returns True.

    Raises:
        UsageError: rank 0 ended without it (`is_led` returns False).
    """
    joined, looked = False, time.monotonic()
    while not node.exists:
        if time.monotonic() - looked > _BETWEEN_LOOKS_AT_RANK_0:
            looked = time.monotonic()
            if not is_led() and not node.exists:
                raise UsageError(
                    f"process 0 of this run ended before the stage {node.title!r}; its own message has the reason"
                )
        joined = joined or (node.partial.is_dir() and join(node.partial))
        time.sleep(_GLIMPSE)
    artefact = node.where.find(*node.key)
    if artefact is None:
        raise UsageError(f"{node.path} was there and is gone: another process deleted it while this run used it")
    return artefact
