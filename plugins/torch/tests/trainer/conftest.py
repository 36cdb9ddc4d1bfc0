"""Makes `trainer_models` importable, also for the processes that tests start, and keeps tests to one thread."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)  # tiny products are slower on two threads, far slower on a busy machine
    yield
    torch.set_num_threads(before)
