"""Other work on this machine, and how OpenMP's threads wait beside it.

The threads spin while they wait for each other. That is fastest on an idle machine, but where other processes hold a core,
whole time slices are spun away. Sleeping threads (`wait_passively`) must be chosen before torch is imported, since OpenMP
reads its settings once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from time import perf_counter, sleep

_LEAST = 0.25
"""Other work, in cores, below which a machine is idle."""
_PROBE_SECONDS = 0.2
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "0"}
"""Settings of GNU's, LLVM's and Intel's OpenMP. A hundred turns are microseconds: the pause between two short loops."""


class OtherWork:
    """Measures the processor time of other processes, and of other machines on the same hardware, from now on.

    Args:
        own: returns the seconds of processor time of this program so far; by default of this process and its ended children.
    """

    def __init__(self, own: Callable[[], float] | None = None) -> None:
        self._own = own or (lambda: sum(os.times()[:4]))
        self._begun, self._mine, self._all = perf_counter(), self._own(), _busy_seconds()

    def cores(self) -> float | None:
        """Return the average number of cores that others used; None if the system does not count them."""
        now = _busy_seconds()
        if now is None or self._all is None:
            return None
        elapsed = max(perf_counter() - self._begun, 1e-9)
        return max(0.0, (now - self._all) - (self._own() - self._mine)) / elapsed

    def disturbance(self, threads: int) -> float:
        """Return how many cores others took on average if that left too few for so many threads, else 0."""
        others = self.cores() or 0.0
        return others if others > _LEAST and others + threads > (os.cpu_count() or 1) else 0.0


def busy_cores(threads: int) -> float:
    """Return how many cores others use now, where that leaves too few for so many threads; else 0."""
    work = OtherWork()
    if work.cores() is None:
        return 0.0
    sleep(_PROBE_SECONDS)
    return work.disturbance(threads)


def wait_passively(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep while they wait, in processes that start with this environment.

    A user's own setting stays, and then nothing is set.
    """
    if not _PASSIVE.keys() & environment.keys():
        environment.update(_PASSIVE)


def prepare_threads(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep while they wait if this machine is busy now; call it before torch is imported."""
    if _PASSIVE.keys() & environment.keys():
        return
    wanted = environment.get("OMP_NUM_THREADS", "")
    if busy_cores(int(wanted) if wanted.isdecimal() else os.cpu_count() or 1):
        wait_passively(environment)


def _busy_seconds() -> float | None:
    """Return the seconds for which all cores together computed since the machine started, stolen time among them."""
    try:
        with Path("/proc/stat").open(encoding="ascii") as file:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, file.readline().split()[1:9])
        return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        return None
