"""Where and in which precision a model computes.

`compute_dtype("auto", device)` measures whether bfloat16 beats float32 in a matrix product, because on CPUs that depends on
the instructions they have: with AVX512-BF16 it is four times as fast, without it slower. The answer is kept for this
machine and version of torch: what a run computes in must not change with how busy the machine was.
"""

from __future__ import annotations

import os
import platform
import re
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Literal

import kdtool

from kdtool_transformers import _files

if TYPE_CHECKING:
    import torch

__all__ = [
    "DeviceName",
    "DtypeName",
    "compute_dtype",
    "devices_here",
    "gpu_bytes",
    "named_device",
    "pick_device",
    "product_speed",
]

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Annotated[str, kdtool.Field(pattern=r"^(cpu|mps|cuda(:[0-9]+)?)$")]

_PROBE_SECONDS = 0.3
_MATRIX = 768


def pick_device() -> torch.device:
    """Return CUDA if there is one, else Apple's MPS, else the CPU. Processes that torchrun started have a GPU each."""
    import torch

    if torch.cuda.is_available():
        own = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        # Measurements name the device: that of the only process, or the first one, has no number.
        return torch.device("cuda", own) if own else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def devices_here() -> list[str]:
    """Return the names of all devices of this machine."""
    import torch

    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def named_device(name: str) -> torch.device:
    """Return the device of that name; "cuda" is the GPU that this process uses."""
    import torch

    if name != "cuda":
        return torch.device(name)
    own = pick_device().index
    return torch.device("cuda", torch.cuda.current_device() if own is None else own)


def compute_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the dtype of that name; "auto" is bfloat16 where it is faster than float32 on this device, else float32."""
    import torch

    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    return torch.bfloat16 if _bfloat16_is_faster(device.type) else torch.float32


@lru_cache
def product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations a second of a product of matrices, measured here for a third of a second."""
    return 2 * _MATRIX**3 / _fastest_product(device.type, dtype)


def gpu_bytes() -> int:
    """Return the memory of all CUDA devices together, 0 where there is none."""
    import torch

    return sum(
        int(torch.cuda.get_device_properties(number).total_memory) for number in range(torch.cuda.device_count())
    )


@lru_cache
def _bfloat16_is_faster(device_type: str) -> bool:
    import torch

    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    key = "-".join((device_type, platform.machine(), torch.backends.cpu.get_cpu_capability(), torch.__version__))
    kept = _files.cache_folder() / f"bfloat16-is-faster-{re.sub(r'[^A-Za-z0-9.]+', '-', key)}"
    known = _read(kept)
    if known is not None:
        return known
    try:
        faster = _fastest_product(device_type, torch.bfloat16) < 0.9 * _fastest_product(device_type, torch.float32)
    except (RuntimeError, TypeError):  # a device that cannot compute in it
        faster = False
    _files.write_cached(kept, str(faster))
    return faster


def _read(kept: Path) -> bool | None:
    """Return what was measured before, None where that is not known."""
    try:
        return {"True": True, "False": False}.get(kept.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _fastest_product(device_type: str, dtype: torch.dtype) -> float:
    import torch

    matrix = torch.ones(_MATRIX, _MATRIX, dtype=dtype, device=device_type)
    best, end = float("inf"), perf_counter() + _PROBE_SECONDS
    while perf_counter() < end:
        start = perf_counter()
        _ = float((matrix @ matrix)[0, 0])  # reading a value waits for the device
        best = min(best, perf_counter() - start)
    return best
