"""Settings for this machine: precision, chunk sizes, the C library's memory allocator."""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil  # type: ignore[import-untyped]  # it ships no types
import torch
from kdtool_torch import DtypeName, compute_dtype, has_bfloat16

__all__ = ["autocast_to", "chosen_dtype", "chunk_sizes", "dtype_name", "memory_of_process", "tuned_malloc"]

_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_MAX = 1, -1, -4  # from malloc.h
_FAST_DEFAULT, _TRIM_DEFAULT, _MMAP_DEFAULT = 16 * ctypes.sizeof(ctypes.c_size_t), 128 * 1024, 65536


def chosen_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: for "auto" float16 on GPUs too old for bfloat16, else the faster one."""
    if name == "auto" and device.type == "cuda" and not has_bfloat16():
        return torch.float16
    return compute_dtype(name, device)


def autocast_to(dtype: torch.dtype, device: torch.device) -> torch.autocast:
    """Return autocast to the dtype of products; it does nothing in float32."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def dtype_name(dtype: torch.dtype) -> str:
    """Return a dtype's name in recipes."""
    return str(dtype).removeprefix("torch.")


def chunk_sizes(vocabulary: int, device: torch.device) -> tuple[int, int]:
    """Return (C, r): positions projected at once, and positions of one call of the losses.

    On CPUs r keeps a loss's float32 temporaries (r x V x 4 bytes, several of them) in the last-level cache: 64 for 49,152
    tokens. GPUs want large calls.
    """
    if device.type == "cpu":
        return min(max(52_500_000 // vocabulary, 128), 4096), min(max(3_200_000 // vocabulary, 16), 1024)
    head_chunk_size = min(max(200_000_000 // vocabulary, 256), 8192)
    return head_chunk_size, min(head_chunk_size, max(100_000_000 // vocabulary, 256))


def memory_of_process(device: torch.device) -> int:
    """Return the most bytes that this process has allocated on its GPU, or what it holds of main memory without one."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return int(psutil.Process().memory_info().rss)


@contextmanager
def tuned_malloc() -> Iterator[None]:
    """Keep large freed blocks in the heap (glibc only), which saves 5 to 27 % of CPU time: fresh pages need not be cleared.

    Freed small blocks are merged with adjacent free ones at once, so that a new tensor fits into the space of a freed one.
    Without glibc nothing changes. Afterwards glibc's defaults are restored and memory is given back.
    """
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        yield
        return
    library = ctypes.CDLL(None)
    gc.collect()
    library.malloc_trim(0)  # memory freed by earlier stages is fragmented: little of it would be used again
    library.mallopt(_M_MXFAST, 0)
    library.mallopt(_M_MMAP_MAX, 0)
    library.mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)
    try:
        yield
    finally:
        library.mallopt(_M_MXFAST, _FAST_DEFAULT)
        library.mallopt(_M_MMAP_MAX, _MMAP_DEFAULT)
        library.mallopt(_M_TRIM_THRESHOLD, _TRIM_DEFAULT)
        library.malloc_trim(0)
