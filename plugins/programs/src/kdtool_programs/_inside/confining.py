"""Confine a process before it runs untrusted code: descriptors, standard streams, resources, tracing, system calls."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from contextlib import suppress
from typing import Any

__all__ = ["Limits", "adopt_orphans", "confine", "forbid_calls", "hide", "limit", "limits_of", "share_heaps", "stay_on"]

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _DUMPABLE, _ADOPT = 38, 22, 2, 4, 36
_HEAPS = -8
_STACK = 64 * 2**20
_FILE = 32 * 2**20
_SIGNALS = 64
"""Pending signals, among which timers count."""
_NO_CORE = 1
"""No file is so small, and where cores go to a program of the machine, which 0 does not prevent, 1 does (core(5))."""
Limits = list[tuple[int, tuple[int, int]]]
"""Resources, and how much of each is allowed: now, and ever after."""
_LIBRARY = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid_calls(instructions: bytes) -> None:
    """Keep this process and all its children from the system calls that the filter refuses."""
    program = _Program(len(instructions) // 8, instructions)
    _control((_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))


def hide() -> None:
    """Keep this process and its children from being traced, from leaving cores, and from new rights."""
    _control((_DUMPABLE, 0, 0, 0, 0))
    _control((_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def share_heaps() -> None:
    """Make all threads of this process and its children allocate memory from one heap.

    Else the C library reserves 64 MiB of addresses for each thread, and an allowance of addresses is soon used up.
    """
    with suppress(AttributeError):  # other C libraries have one heap anyway
        _LIBRARY.mallopt(_HEAPS, 1)


def adopt_orphans() -> None:
    """Make every descendant whose parent ends a child of this process, which can then wait for it."""
    _control((_ADOPT, 1, 0, 0, 0))


def stay_on(processors: set[int]) -> None:
    """Run only on these processors, if this is allowed."""
    with suppress(OSError):
        os.sched_setaffinity(0, processors)


def _control(step: tuple[Any, ...]) -> None:
    if _LIBRARY.prctl(*step) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({step[0]}) is refused")


def confine(kept: int, limits: Limits) -> Callable[[], None]:
    """Return what closes all descriptors but the first `kept` from 3 on, and limits this process."""

    def now() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.closerange(3 + kept, 2**20)
        limit(limits)

    return now


def limits_of(task: dict[str, Any]) -> Limits:
    """Return the limits of resources for a process of a task, none above what this process may have itself."""
    seconds = int(4 * task["seconds"]) + 2
    wanted = [
        (resource.RLIMIT_NPROC, task["processes"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_STACK, _STACK),
        (resource.RLIMIT_CORE, _NO_CORE),
        (resource.RLIMIT_NOFILE, task["files"]),
        (resource.RLIMIT_SIGPENDING, _SIGNALS),
        *([(resource.RLIMIT_AS, task["memory"])] if task["memory"] else []),
    ]
    limits: Limits = []
    for what, most in wanted:
        ceiling = resource.getrlimit(what)[1]
        allowed = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
        limits.append((what, (allowed, allowed)))
    return limits


def limit(limits: Limits) -> None:
    """Limit this process's resources for good."""
    for what, most in limits:
        resource.setrlimit(what, most)
