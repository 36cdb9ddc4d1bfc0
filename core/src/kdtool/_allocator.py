"""Settings of the C library's memory allocator that suit tensors."""

from __future__ import annotations

import os
import platform
import sys

_VARIABLE, _SETTING = "GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"


def begin_again_with_joined_blocks() -> None:
    """Restart this process, under the same number, with glibc's cache of small blocks off; a user's own setting stays.

    Processes that this one starts do not inherit the setting.

    Aligning a tensor leaves small blocks, which the cache never joins with adjacent free memory, so that the room of a
    freed tensor does not hold the next one of its size. Without the cache a training run takes up to a fifth less memory
    (docs/benchmarks/memory.md). glibc reads the variable only at the start. Call it only in the command line's process.
    """
    if os.environ.get(_VARIABLE) == _SETTING:
        del os.environ[_VARIABLE]
    elif sys.platform == "linux" and _VARIABLE not in os.environ and platform.libc_ver()[0] == "glibc":
        os.environ[_VARIABLE] = _SETTING
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606
