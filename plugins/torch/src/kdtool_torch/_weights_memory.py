"""Main memory of weights that are rewritten one by one: what is no longer needed goes back to the system at once.

Opened weights are pages of a mapped file, which stay in memory until the last weight of that file is gone. Used where all
weights of a model are converted: by `_runtime`, `_model` and transforms.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import sys
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["give_back_memory", "release_mapping", "widen"]

_DONT_NEED = 4
"""Linux's MADV_DONTNEED; pages of a private mapping are read from the file again when they are next used."""


def widen(model: nn.Module) -> None:
    """Convert weights and buffers of half precision to float32, one at a time, without keeping what they were."""
    import torch

    for tensor in chain(model.parameters(), model.buffers()):
        if tensor.dtype in (torch.bfloat16, torch.float16):
            before = tensor.data
            tensor.data = before.float()
            release_mapping(before)


def release_mapping(weight: Tensor) -> None:
    """Give the pages of a file that `weight` maps back to the system; what was written into them is lost.

    Does nothing for tensors in other memory, and on systems other than Linux.
    """
    if sys.platform != "linux" or weight.device.type != "cpu":
        return
    begin = -(-weight.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (weight.data_ptr() + weight.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if begin < end and _is_mapped_privately(begin, end):
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), _DONT_NEED)


def give_back_memory() -> None:
    """Return freed memory to the system: glibc keeps blocks of up to 32 MB. Does nothing with other C libraries."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _is_mapped_privately(begin: int, end: int) -> bool:
    """Return whether one private mapping of a file holds all addresses from `begin` to `end`."""
    with Path("/proc/self/maps").open(encoding="utf-8", errors="replace") as maps:
        for line in maps:
            addresses, mode, _, _, inode = line.split(maxsplit=5)[:5]
            first, last = (int(address, 16) for address in addresses.split("-"))
            if first <= begin < last:
                return end <= last and mode.endswith("p") and inode != "0"
    return False
