"""Memory and disk of this machine, and sizes as people write them."""

from __future__ import annotations

import contextlib
import re
import shutil
from pathlib import Path

from kdtool._errors import UsageError

_UNITS = {"b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def read_size(text: str) -> int:
    """Return the bytes of `8GB`, `512 MiB` or `1.5gb`.

    Raises:
        UsageError: the text is not a size.
    """
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]?i?b)\s*", text, re.IGNORECASE)
    if found is None or found[2].lower() not in _UNITS or not float(found[1]):
        raise UsageError(f"{text!r} is not a size; write for instance 8GB, 512MB or 6GiB")
    return int(float(found[1]) * _UNITS[found[2].lower()])


def size(count: float) -> str:
    """Write bytes as people say them: `8.0 GB`, `512 MB`."""
    for unit, least in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= least:
            return f"{count / least:,.{0 if count >= 100 * least else 1}f} {unit}"
    return f"{count:,.0f} B"


def memory_here() -> int:
    """Return the memory of this machine, or of the container that this process runs in."""
    import psutil

    found: list[int] = [psutil.virtual_memory().total]
    for limit in _LIMITS:
        with contextlib.suppress(OSError, ValueError):  # "max", or no such file
            found.append(int(Path(limit).read_text(encoding="ascii")))
    return min(found)


def free_disk(folder: Path) -> int:
    """Return the bytes free where a folder is or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free
