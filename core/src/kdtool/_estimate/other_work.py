"""Other work on this machine: measurements beside it are slower, and threads that wait by spinning make it far worse.

`OtherWork` measures over a stretch of time, `busy_cores` now. OpenMP's threads spin while they wait for each other. That is
fastest on an idle machine, but where other processes hold a core, whole time slices are spun away. `wait_passively` has
them sleep instead; it is called where the machine is busy before torch is imported, since OpenMP reads its settings once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from time import perf_counter, sleep

__all__ = ["OtherWork", "busy_cores", "is_busy", "prepare_threads", "wait_passively"]

_LEAST = 0.25
"""Cores that must be taken by others before anybody is warned."""
_PROBE_SECONDS = 0.2
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "0"}
"""Settings of GNU's, LLVM's and Intel's OpenMP. A hundred turns are microseconds: the pause between two short loops."""


class OtherWork:
    """Measures the processor time that other processes, or other machines on the same hardware, take from now on.

    Args:
        own: seconds of processor time of this program so far; by default those of this process and its ended children.
    """

    def __init__(self, own: Callable[[], float] | None = None) -> None:
        self._own = own or _own_seconds
        self._begun, self._mine, self._all = perf_counter(), self._own(), _busy_seconds()

    def cores(self) -> float | None:
        """Return how many cores others took on average; None where the system does not say."""
        now = _busy_seconds()
        if now is None or self._all is None:
            return None
        elapsed = max(perf_counter() - self._begun, 1e-9)
        return max(0.0, (now - self._all) - (self._own() - self._mine)) / elapsed


def is_busy(others: float | None, threads: int) -> bool:
    """Return whether other work, in cores, leaves too few cores for `threads` threads."""
    return others is not None and others > _LEAST and others + threads > (os.cpu_count() or 1)


def busy_cores(threads: int) -> float:
    """Return how many cores others take now, where that leaves too few for so many threads; else 0."""
    work = OtherWork()
    if work.cores() is None:
        return 0.0
    sleep(_PROBE_SECONDS)
    others = work.cores()
    return others if others is not None and is_busy(others, threads) else 0.0


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep while they wait, in processes that start with this environment.

    A user's own setting stays, and then nothing is set.
    """
    if not _PASSIVE.keys() & environment.keys():
        environment.update(_PASSIVE)


def prepare_threads(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads of this process, and of those it starts, wait as suits this machine now; before torch loads."""
    if _PASSIVE.keys() & environment.keys():
        return
    wanted = environment.get("OMP_NUM_THREADS", "")
    if busy_cores(int(wanted) if wanted.isdecimal() else os.cpu_count() or 1):
        wait_passively(environment)


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    """Return the seconds for which all cores together computed since the machine started, stolen time among them."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
