"""How much memory a process and its descendants hold, read from /proc of this machine.

Shared memory is no process's own, and stays where all but a page of it is given back: it is refused, not counted, but for
files in the one folder that can be written, which has a limit of its own.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["held"]

_OWN = re.compile(r"^(?:RssAnon|VmPTE|VmSwap|HugetlbPages):\s*(\d+) kB$", re.MULTILINE)
"""Pages, the tables that say where they are, what is swapped out, and huge pages, which are not among the pages."""


def held(process: int) -> int:
    """Return the bytes that a process and its descendants hold of their own; those that ended meanwhile hold none."""
    total, waiting = 0, [process]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        try:
            total += 2**10 * sum(map(int, _OWN.findall((folder / "status").read_text("utf-8", "replace"))))
            for children in (folder / "task").glob("*/children"):
                waiting += map(int, children.read_text().split())
        except OSError:
            continue
    return total
