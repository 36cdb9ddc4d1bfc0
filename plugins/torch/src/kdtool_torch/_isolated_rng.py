"""Isolate process-wide state: one thread uses it at a time, and restores it.

Random generators, torch's default dtype and the functions of torch that transformers replaces while it builds a model
belong to the whole process. Code that builds, loads or trains a model therefore holds this lock: runs in several threads
take turns. Recording signals and scoring use no such state, and run in parallel.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["isolated_rng", "seed_generators"]

_TURN = threading.RLock()
_LOOK_SECONDS = 0.5


@contextmanager
def isolated_rng(seed: int | None = None, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Run with exclusive, seeded, restored global RNG state.

    Blocks nest within a thread. Code in the block must not wait for another thread that wants a turn.

    Args:
        seed: seed of Python's, NumPy's and torch's generators; None leaves them as they are.
        waiting: called once if another thread has the lock.
    """
    _take_turn(waiting)
    try:
        with _restore_generators():
            if seed is not None:
                seed_generators(seed)
            yield
    finally:
        _TURN.release()


def _take_turn(waiting: Callable[[str], None] | None) -> None:
    if _TURN.acquire(timeout=_LOOK_SECONDS):
        return
    if waiting is not None:
        waiting("another run of this process is building or training a model; waiting for its turn to end")
    while not _TURN.acquire(timeout=_LOOK_SECONDS):  # a wait without end could not be interrupted on Windows
        pass


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on all devices. `seed` is from 0 to 2³² - 1."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _restore_generators() -> Iterator[None]:
    import numpy as np
    import torch

    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else ()
    python, numpys = random.getstate(), np.random.get_state()  # libraries draw from both
    metal = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
        if metal is not None:
            torch.mps.set_rng_state(metal)
