"""A memory group of the kernel (cgroup) for each worker, if systemd grants one.

The kernel counts all memory of a group, including its own memory; a worker's samples see only a part of that.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from functools import cache

__all__ = ["memory_group"]

_LIMITS = ("MemoryMax=2G", "MemorySwapMax=0")
"""Above the limits of a task, which end it with a reason."""
_PATIENCE = 5.0
"""Seconds to wait for systemd's answer."""


@cache
def memory_group() -> tuple[str, ...]:
    """Return the prefix of a command that gives it its own memory group; () where systemd grants none."""
    program = shutil.which("systemd-run")
    if program is None:
        return ()
    manager = () if os.geteuid() == 0 else ("--user",)
    limits = (part for limit in _LIMITS for part in ("--property", limit))
    prefix = (program, *manager, "--scope", "--quiet", "--collect", *limits, "--")
    try:
        done = subprocess.run(  # noqa: S603 (systemd's own program)
            [*prefix, "true"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if done.returncode == 0 else ()
