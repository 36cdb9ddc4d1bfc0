"""Processes of a sandbox as /proc of this machine shows them: the memory and the processors that they use.

Shared memory belongs to no single process, and all of it stays if a single page is kept: it is refused, not counted,
except for files in the one writable folder, which has its own limit. Data queued in sockets is kernel memory: each socket of
a sandbox counts with its maximum. Mappings of addresses use kernel memory as well.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from math import ceil, log
from pathlib import Path
from typing import NamedTuple

_OWN = re.compile(r"^(?:RssAnon|VmPTE|VmSwap|HugetlbPages):\s*(\d+) kB$", re.MULTILINE)
"""Pages, page tables, swapped pages, and huge pages, which do not count as pages."""
_ADDRESSES = re.compile(r"^VmSize:\s*(\d+) kB$", re.MULTILINE)
_PAGE = 4096
_OF_A_MAPPING = 512
"""Bytes that the kernel uses for each mapping."""

_BUFFER = Path("/proc/sys/net/core/wmem_default")
_LAST = 2**17
"""Bytes of the last message that a socket's buffer accepts beyond its limit."""

_OF_A_TASK = 3
"""Generation of the first process of a task, after bubblewrap, tester and keeper."""
_BUSY = 2
"""Threads that a task may keep busy for each processor that it may run on."""
_LOWEST, _WEIGHT_OF_A_STEP = 19, 1.25
_SHORT = 2 * mmap.PAGESIZE
"""Size of a new pipe of a user who has more than `fs.pipe-user-pages-soft`."""


def memory_of(process: int) -> int:
    """Return the bytes of private memory of a process and its descendants; ended ones count 0.

    Includes the sockets of their network namespace, if they have one.
    """
    total, sockets = 0, 0
    for folder, _ in _family(process):
        total += _own(folder)
        sockets = sockets or _sockets(folder)
    return total + sockets * (int(_text(_BUFFER) or 0) + _LAST)


class Times(NamedTuple):
    """Seconds for which a thread of a process ran, and for which it waited for a processor."""

    process: int
    ran: float
    waited: float


def times_of(process: int) -> dict[int, Times]:
    """Return the times of each thread of a process and its descendants; empty if the kernel does not count them."""
    threads = [thread for folder, _ in _family(process) for thread in _threads(folder)]
    counters = {thread: _text(thread / "schedstat").split() for thread in threads}
    return {
        int(thread.name): Times(int(thread.parent.parent.name), int(counts[0]) / 1e9, int(counts[1]) / 1e9)
        for thread, counts in counters.items()
        if counts
    }


def pipes_are_short() -> bool:
    """Return whether this process' user has so many pipes that new ones are smaller than programs expect."""
    if not sys.platform.startswith("linux"):
        return False
    import fcntl  # other systems may not have it

    ends = os.pipe()
    try:
        return fcntl.fcntl(ends[0], fcntl.F_GETPIPE_SZ) <= _SHORT
    finally:
        for end in ends:
            os.close(end)


def calm(process: int) -> None:
    """Lower the priority of a sandbox's task that keeps more threads busy than its processors can run.

    All of them together then weigh about as much as one thread for each processor.
    """
    threads = [thread for folder, depth in _family(process) if depth >= _OF_A_TASK for thread in _threads(folder)]
    busy = sum(_text(thread / "stat").rpartition(")")[2].startswith(" R") for thread in threads)
    with suppress(OSError):  # it may have ended
        processors = len(os.sched_getaffinity(int(threads[0].name))) if threads else 0
        if busy > _BUSY * processors:
            nice = min(_LOWEST, ceil(log(busy / processors, _WEIGHT_OF_A_STEP)))
            for thread in threads:
                _lower(int(thread.name), nice)


def _lower(thread: int, nice: int) -> None:
    with suppress(OSError):
        if os.getpriority(os.PRIO_PROCESS, thread) < nice:
            os.setpriority(os.PRIO_PROCESS, thread, nice)


def _family(process: int) -> Iterator[tuple[Path, int]]:
    """Yield the folders in /proc of a process and its descendants, each with its generation."""
    waiting = [(process, 0)]
    while waiting:
        number, depth = waiting.pop()
        folder = Path("/proc") / str(number)
        yield folder, depth
        waiting += [(child, depth + 1) for child in children(number)]


def children(process: int) -> list[int]:
    """Return the processes that one has started and not waited for."""
    threads = _threads(Path("/proc") / str(process))
    return [int(child) for thread in threads for child in _text(thread / "children").split()]


def descendants(process: int) -> list[int]:
    """Return the children of a process, their children, and so on."""
    return [int(folder.name) for folder, depth in _family(process) if depth > 0]


def _own(folder: Path) -> int:
    """Return the bytes of one process, read from another thread if its first thread has ended."""
    status = _text(folder / "status")
    if not _OWN.search(status):
        status = max((_text(thread / "status") for thread in _threads(folder)), key=_pages, default="")
    addresses = _ADDRESSES.search(status)
    return _pages(status) + _OF_A_MAPPING * (_mappings(folder, 2**10 * int(addresses[1])) if addresses else 0)


def _pages(status: str) -> int:
    return 2**10 * sum(map(int, _OWN.findall(status)))


def _mappings(folder: Path, addresses: int) -> int:
    """Return the number of mappings of a process; if it cannot be read, the largest number that fits its addresses."""
    try:
        return (folder / "maps").read_bytes().count(b"\n")
    except OSError:
        return min(addresses // _PAGE, _most_mappings())


@cache
def _most_mappings() -> int:
    return int(_text(Path("/proc/sys/vm/max_map_count")) or 2**16)


def _sockets(folder: Path) -> int:
    """Return the number of local sockets in the network of a process; 0 if this process is in the same network."""
    listed = [process / "net" / "unix" for process in (Path("/proc/self"), folder)]
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
