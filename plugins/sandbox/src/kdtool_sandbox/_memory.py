"""How much memory a process and its descendants hold, read from /proc of this machine.

Shared memory is no process's own, and stays where all but a page of it is given back: it is refused, not counted, but for
files in the one folder that can be written, which has a limit of its own. What waits in sockets is the kernel's: each socket
of a sandbox counts as what may wait there.
"""

from __future__ import annotations

import re
from pathlib import Path

__all__ = ["held"]

_OWN = re.compile(r"^(?:RssAnon|VmPTE|VmSwap|HugetlbPages):\s*(\d+) kB$", re.MULTILINE)
"""Pages, the tables that say where they are, what is swapped out, and huge pages, which are not among the pages."""

_BUFFER = Path("/proc/sys/net/core/wmem_default")
_LAST = 2**17
"""Bytes of the message by which a socket's buffer gets over its edge."""


def held(process: int) -> int:
    """Return the bytes that a process and its descendants hold of their own; those that ended meanwhile hold none.

    Where they have a network of their own, its sockets are among it.
    """
    total, sockets, waiting = 0, 0, [process]
    while waiting:
        folder = Path("/proc") / str(waiting.pop())
        total += _own(folder)
        sockets = sockets or _sockets(folder)
        for thread in _threads(folder):
            waiting += map(int, _text(thread / "children").split())
    return total + sockets * (int(_text(_BUFFER) or 0) + _LAST)


def _own(folder: Path) -> int:
    """Return the bytes of one process. Where its first thread has ended nothing is told of it, but of those that go on."""
    found = _OWN.findall(_text(folder / "status"))
    if not found:
        found = max((_OWN.findall(_text(thread / "status")) for thread in _threads(folder)), key=len, default=[])
    return 2**10 * sum(map(int, found))


def _sockets(folder: Path) -> int:
    """Return how many local sockets there are in the network of a process; 0 where that is this process's, too."""
    listed = [place / "net" / "unix" for place in (Path("/proc/self"), folder)]
    try:
        return 0 if listed[0].samefile(listed[1]) else listed[1].read_bytes().count(b"\n") - 1
    except OSError:
        return 0


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
