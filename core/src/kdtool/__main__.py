"""The process of the command line: what `kdtool` and `python -m kdtool` start.

Memory and threads are set up before the command line is imported: glibc reads its settings only when a process starts, and
OpenMP when torch is imported.
"""

from __future__ import annotations

import gc
import os
import platform
import sys
from collections.abc import MutableMapping

COMPUTING = {"run", "eval"}
"""Commands that compute for longer than a moment."""
_PASSIVE = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "100", "KMP_BLOCKTIME": "0"}
"""Settings of GNU's, LLVM's and Intel's OpenMP. A spin count of 100 is microseconds: the pause between two short loops."""


def begin() -> None:
    """Prepare this process, run the command line, and exit with its code."""
    command = next((word for word in sys.argv[1:] if not word.startswith("-")), "")
    if command in COMPUTING:
        begin_again_with_joined_blocks()
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")  # else pydantic imports what any package registers
    from kdtool._cli import main  # only now: a process that begins again would import it twice

    wait_passively_if_busy(os.environ)
    if command == "check":  # it ends soon; looking for garbage among torch's modules would take a sixth of its time
        gc.disable()
    main()


def wait_passively_if_busy(environment: MutableMapping[str, str]) -> None:
    """Have OpenMP's threads sleep while they wait if others keep all cores busy; a user's setting stays.

    Spinning threads are fastest on an idle machine. On a busy one they waste whole time slices, and decoding takes ten
    times as long. OpenMP reads its settings once, when torch is imported.
    """
    if _PASSIVE.keys() & environment.keys() or not hasattr(os, "getloadavg"):
        return
    # A mean over the last minute, to which an installation or a run that just ended adds one per core at most.
    if os.getloadavg()[0] > (os.cpu_count() or 1):
        environment.update(_PASSIVE)


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


if __name__ == "__main__":
    begin()
