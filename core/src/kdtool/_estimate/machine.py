"""Memory and disk of this machine, sizes as people write them, and published figures of GPUs for a machine elsewhere.

Figures of `kdtool check --gpu NAME` are all dense: data sheets of L4, L40S, H100 and H200 print 16-bit figures with
sparsity, twice as much. The 16-bit figures were checked by the number of multiprocessors, clock and operations of each,
the L40S's by a copy of its sheet, and not against NVIDIA's documents themselves:

- T4, V100 (SXM2), A10, A100, L4, L40S, H100 (SXM), H200 (SXM): the data sheet of that name. PCIe versions of V100,
  H100 and H200 are slower.
- RTX 3090: the white paper of Ampere GA102; RTX 4090: that of Ada. In 16 bits with float32 accumulation, as training does.

Memory is in units of 10^9 bytes, as on the box; drivers report somewhat more.
"""

from __future__ import annotations

import contextlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Gpu:
    """A GPU's published figures: memory in bytes, and dense operations a second in 16 bits and in float32.

    `bfloat16` is True for those that compute in it, on which flash attention runs too.
    """

    name: str
    memory: int
    half: float
    single: float
    bfloat16: bool = True

    @classmethod
    def find(cls, name: str) -> Gpu:
        """Return the published figures of a GPU by its name, such as "a100-80gb". Since 0.1.

        Raises:
            UsageError: it is unknown.
        """
        if (gpu := GPUS.get(name.lower())) is None:
            raise UsageError(f"--gpu: {name!r} is unknown; give one of {', '.join(GPUS)}")
        return gpu

    @classmethod
    def of_check(cls) -> Gpu | None:
        """Return the GPU that a check assumes instead of this machine's devices; None elsewhere. Since 0.1."""
        return _assumed.get()


GPUS = {
    gpu.name: gpu
    for gpu in (
        Gpu("t4", 16 * 10**9, 65e12, 8.1e12, bfloat16=False),
        Gpu("v100", 32 * 10**9, 125e12, 15.7e12, bfloat16=False),
        Gpu("rtx3090", 24 * 10**9, 71e12, 35.6e12),
        Gpu("rtx4090", 24 * 10**9, 165e12, 82.6e12),
        Gpu("a10", 24 * 10**9, 125e12, 31.2e12),
        Gpu("l4", 24 * 10**9, 121e12, 30.3e12),
        Gpu("l40s", 48 * 10**9, 362e12, 91.6e12),
        Gpu("a100-40gb", 40 * 10**9, 312e12, 19.5e12),
        Gpu("a100-80gb", 80 * 10**9, 312e12, 19.5e12),
        Gpu("h100", 80 * 10**9, 989e12, 67e12),
        Gpu("h200", 141 * 10**9, 989e12, 67e12),
    )
}
_assumed: ContextVar[Gpu | None] = ContextVar("kdtool_assumed_gpu", default=None)


@contextmanager
def assume(gpu: Gpu | None) -> Iterator[None]:
    """Have components describe and estimate for this GPU within the block."""
    token = _assumed.set(gpu)
    try:
        yield
    finally:
        _assumed.reset(token)
