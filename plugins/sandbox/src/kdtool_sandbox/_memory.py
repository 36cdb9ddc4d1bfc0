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
        total += _own(folder)
        for thread in _threads(folder):
            waiting += map(int, _text(thread / "children").split())
    return total


def _own(folder: Path) -> int:
    """Return the bytes of one process. Where its first thread has ended nothing is told of it, but of those that go on."""
    found = _OWN.findall(_text(folder / "status"))
    if not found:
        found = max((_OWN.findall(_text(thread / "status")) for thread in _threads(folder)), key=len, default=[])
    return 2**10 * sum(map(int, found))


def _threads(folder: Path) -> list[Path]:
    try:
        return list((folder / "task").iterdir())
    except OSError:
        return []


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
