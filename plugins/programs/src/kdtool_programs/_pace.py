"""Speed of this machine at Python: time limits are those of a machine of known speed, and scale with it."""

from __future__ import annotations

import time
from functools import cache

__all__ = ["slowness"]

_REFERENCE = 0.010
"""Seconds that the workload takes on the machine that limits are for. A server's core that was measured took 0.016."""
_TIMES = 7
_STEPS = 60_000
_MOST = 8.0
"""Under a tracer or a simulator Python is slower still, and what runs in the sandbox is not traced."""


@cache
def slowness() -> float:
    """Return how many times as long as the reference this machine takes for Python, at least 1; measured once in a process.

    It is the processor's time, the least of several measurements, so other work on the machine hardly counts.
    """
    return round(min(_MOST, max(1.0, min(_workload() for _ in range(_TIMES)) / _REFERENCE)), 1)


def _workload() -> float:
    """Return the processor's seconds for arithmetic, a dictionary, a list and text, as tests use them."""
    began = time.thread_time()
    total, seen, texts = 0, dict[int, int](), list[str]()
    for number in range(_STEPS):
        total = (total * 31 + number) & 0xFFFF
        seen[total] = seen.get(total, 0) + 1
        if number % 3 == 0:
            texts.append(str(total))
    "".join(sorted(texts, key=len))
    return time.thread_time() - began
