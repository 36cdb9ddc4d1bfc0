"""Processor time of other programs while models are timed, which makes the figures too low."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

__all__ = ["OtherWork"]

_LEAST = 0.25
"""Other work, in cores, below which a machine is idle."""


class OtherWork:
    """Measures the processor time of other processes, and of other machines on the same hardware, from now on.

    Args:
        own: returns the seconds of processor time that the measured processes used so far.
    """

    def __init__(self, own: Callable[[], float]) -> None:
        self._own = own
        self._begun, self._own_before, self._all_before = perf_counter(), own(), _busy_seconds()

    def cores(self) -> float | None:
        """Return the average number of cores that others used; None if the system does not count them."""
        now = _busy_seconds()
        if now is None or self._all_before is None:
            return None
        elapsed = max(perf_counter() - self._begun, 1e-9)
        return max(0.0, (now - self._all_before) - (self._own() - self._own_before)) / elapsed

    def disturbance(self, threads: int) -> float:
        """Return how many cores others took on average if that left too few for `threads`, else 0."""
        others = self.cores() or 0.0
        return others if others > _LEAST and others + threads > (os.cpu_count() or 1) else 0.0


def _busy_seconds() -> float | None:
    """Return the seconds for which all cores together computed since the machine started, stolen time among them."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
