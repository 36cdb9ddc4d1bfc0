"""Peak memory of this process, which only grows: in RAM, and on the GPU that PyTorch uses."""

from __future__ import annotations

import os
import re
import sys
from functools import cache

__all__ = ["peak_gpu_memory", "peak_memory"]

if sys.platform == "win32":

    def peak_memory() -> int:
        """Return 0: it is not measured on Windows."""
        return 0

else:
    from resource import RUSAGE_SELF, getrusage

    def peak_memory() -> int:
        """Return the largest resident size so far, in bytes."""
        # Linux includes in getrusage's maximum the memory that the parent had when it started this program.
        found = re.search(rb"VmHWM:\s*(\d+)", os.pread(_status(), 1 << 14, 0)) if sys.platform == "linux" else None
        if found:
            return 1024 * int(found[1])
        return getrusage(RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)

    @cache
    def _status() -> int:
        """Return the status file of this process, open as long as it lives."""
        return os.open("/proc/self/status", os.O_RDONLY)


def peak_gpu_memory() -> int:
    """Return the most bytes that tensors have occupied so far; 0 if nothing has used a GPU. Never imports PyTorch."""
    cuda = sys.modules.get("torch.cuda")
    is_initialized = getattr(cuda, "is_initialized", None)  # missing while another thread imports PyTorch
    return int(cuda.max_memory_allocated()) if cuda and is_initialized and is_initialized() else 0
