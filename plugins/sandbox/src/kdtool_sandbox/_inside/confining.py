"""What a process gives up before it runs code of others: descriptors, standard streams, resources, tracing, system calls."""

from __future__ import annotations

import ctypes
import os
import resource
from collections.abc import Callable
from typing import Any

__all__ = ["confine", "forbid_calls", "limit"]

_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _DUMPABLE = 38, 22, 2, 4
_STACK = 64 * 2**20
_FILE = 32 * 2**20


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid_calls(instructions: bytes) -> None:
    """Keep this process and all its children from the system calls that the filter refuses, and from tracing."""
    library = ctypes.CDLL(None, use_errno=True)
    program = _Program(len(instructions) // 8, instructions)
    steps: list[tuple[Any, ...]] = [
        (_DUMPABLE, 0, 0, 0, 0),
        (_NO_NEW_PRIVILEGES, 1, 0, 0, 0),
        (_SECCOMP, _FILTER, ctypes.byref(program), 0, 0),
    ]
    for step in steps:
        if library.prctl(*step) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({step[0]}) is refused")


def confine(kept: int, limits: dict[str, Any]) -> Callable[[], None]:
    """Return what closes all descriptors but the first `kept` from 3 on, and limits this process."""

    def now() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.closerange(3 + kept, 2**20)
        limit(limits)

    return now


def limit(limits: dict[str, Any]) -> None:
    """Limit this process's resources for good."""
    seconds = int(4 * limits["seconds"]) + 2
    for what, most in (
        (resource.RLIMIT_NPROC, limits["processes"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_STACK, _STACK),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_NOFILE, limits["files"]),
        *([(resource.RLIMIT_AS, limits["memory"])] if limits["memory"] else []),
    ):
        ceiling = resource.getrlimit(what)[1]
        allowed = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
        resource.setrlimit(what, (allowed, allowed))
