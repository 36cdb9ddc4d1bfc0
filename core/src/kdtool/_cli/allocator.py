"""The C library's memory allocator, told at the process's start what suits tensors."""

from __future__ import annotations

import os
import platform
import sys

__all__ = ["begin_again_with_joined_blocks"]

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"


def begin_again_with_joined_blocks() -> None:
    """Start this process once more, as the same process, with glibc's cache of small blocks off; elsewhere do nothing.

    Tensors are aligned, and what aligning cuts off goes to that cache, which never joins it with what is free beside it:
    the room of a freed tensor then does not hold the next one of its size. Without the cache a training run takes up to a
    fifth less memory (docs/benchmarks.md). glibc reads the variable at the start alone; whoever has set it keeps it. Only
    for a process that is the command line: it begins with the words that the interpreter was started with.
    """
    if sys.platform == "linux" and _VARIABLE not in os.environ and platform.libc_ver()[0] == "glibc":
        os.environ[_VARIABLE] = _SETTING
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
