"""Device, precision and speed of this machine, random generators, and numbers that the processes of a run agree on.

`compute_dtype("auto", device)` measures whether bfloat16 beats float32 in a matrix product, because on CPUs that
depends on the instructions they have: with AVX512-BF16 it is four times as fast, without it slower. The answer is kept
for this machine and version of torch: the precision of a run must not depend on how busy the machine was.

Random generators, torch's default dtype and the functions of torch that transformers replaces while it builds a model
belong to the whole process. Code that builds, loads or trains a model therefore holds the lock of `isolated_rng`: runs
in several threads take turns. Recording signals and scoring use no such state, and run in parallel.

Numbers of several processes are exchanged through main memory (gloo): no GPU is waited for.
"""

from __future__ import annotations

import os
import platform
import random
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache
from inspect import signature
from time import perf_counter, thread_time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import kdtool

from kdtool_torch.files import cache_folder, write_cached

if TYPE_CHECKING:
    import torch

DtypeName = Literal["auto", "float32", "bfloat16", "float16"]
DeviceName = Annotated[str, kdtool.Field(pattern=r"^(cpu|mps|cuda(:[0-9]+)?)$")]
_PROBE_SECONDS = 0.3
_MATRIX = 768
"""Rows and columns of a product that is timed on a CPU."""
_LARGE_MATRIX, _ENQUEUED = 8192, 16
"""On a GPU smaller products, or those that are waited for one by one, time the launch and not the product."""


def pick_device() -> torch.device:
    """Return CUDA if there is one, else Apple's MPS, else the CPU. Processes that torchrun started have a GPU each.

    While a check assumes a GPU, that is CUDA or, for a chip of Apple, MPS.
    """
    import torch

    if (assumed := kdtool.Gpu.of_check()) is not None:
        return torch.device("mps" if assumed.unified else "cuda")
    if torch.cuda.is_available():
        index = int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count()
        # Measurements name the device: that of the only process, or the first one, has no number.
        return torch.device("cuda", index) if index else torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def devices_here() -> list[str]:
    """Return the names of all devices of this machine."""
    import torch

    if kdtool.Gpu.of_check() is not None:
        return ["cpu", "mps" if pick_device().type == "mps" else "cuda:0"]
    cuda = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    return ["cpu", *cuda, *(["mps"] if torch.backends.mps.is_available() else [])]


def named_device(name: str) -> torch.device:
    """Return the device of that name; "cuda" is the GPU that this process uses."""
    import torch

    if name != "cuda":
        return torch.device(name)
    index = pick_device().index
    if kdtool.Gpu.of_check() is not None:
        return torch.device(name)
    return torch.device("cuda", torch.cuda.current_device() if index is None else index)


def compute_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the dtype of that name; "auto" is bfloat16 if it is faster than float32 on this device, else float32."""
    import torch

    if name != "auto":
        return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[name]
    if device.type == "cuda" or (device.type == "mps" and kdtool.Gpu.of_check()):
        return torch.bfloat16 if has_bfloat16() else torch.float32
    return torch.bfloat16 if _bfloat16_is_faster(device) else torch.float32


def has_bfloat16() -> bool:
    """Return whether the GPU computes in bfloat16 itself."""
    import torch

    assumed = kdtool.Gpu.of_check()
    return torch.cuda.is_bf16_supported(including_emulation=False) if assumed is None else assumed.bfloat16


def has_flash(device: torch.device | None = None) -> bool:
    """Return whether a GPU, by default the current one, runs flash attention on rows of several documents.

    It does from compute capability 8.0 on, if this PyTorch has the function for documents of any lengths.
    """
    import torch

    if not _has_varlen_attention():
        return False
    assumed = kdtool.Gpu.of_check()
    return torch.cuda.get_device_capability(device) >= (8, 0) if assumed is None else assumed.bfloat16


@lru_cache
def _has_varlen_attention() -> bool:
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return False
    return {"scale", "window_size"} <= set(signature(varlen_attn).parameters)


def product_speed(dtype: torch.dtype, device: torch.device) -> float:
    """Return the operations a second of a product of matrices: as published of a GPU that is assumed, else measured here.

    Kept for this machine and version of torch: an estimate must not change with how busy the machine was.
    """
    assumed = kdtool.Gpu.of_check()
    if assumed is not None:
        return assumed.half if dtype.itemsize < 4 else assumed.single
    return _kept_speed(dtype, device)


@lru_cache
def _kept_speed(dtype: torch.dtype, device: torch.device) -> float:
    import torch

    name = torch.cuda.get_device_name() if device.type == "cuda" else torch.backends.cpu.get_cpu_capability()
    machine = "-".join((device.type, platform.machine(), name, torch.__version__))
    key = f"product-speed-{machine}-{str(dtype).removeprefix('torch.')}"
    kept = cache_folder() / re.sub(r"[^A-Za-z0-9.]+", "-", key)
    speed = 0.0
    with suppress(OSError, ValueError):
        speed = float(kept.read_text(encoding="ascii"))
    if not 0 < speed < float("inf"):
        speed = _product_speed(device.type, dtype)
        write_cached(kept, str(speed))
    return speed * (torch.get_num_threads() if device.type == "cpu" else 1)


def gpu_bytes() -> int:
    """Return the memory of all CUDA devices together, 0 if there is none."""
    import torch

    assumed = kdtool.Gpu.of_check()
    if assumed is not None:
        return 0 if assumed.unified else assumed.memory
    return sum(
        int(torch.cuda.get_device_properties(number).total_memory) for number in range(torch.cuda.device_count())
    )


def free_gpu_bytes(device: torch.device) -> int | None:
    """Return the free memory of a CUDA device, with the memory that torch reserved but does not use; None for others."""
    import torch

    if device.type != "cuda":
        return None
    assumed = kdtool.Gpu.of_check()
    if assumed is not None:
        return assumed.memory
    unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + unused


def _bfloat16_is_faster(device: torch.device) -> bool:
    import torch

    try:
        return _kept_speed(torch.bfloat16, device) > 1.1 * _kept_speed(torch.float32, device)
    except (RuntimeError, TypeError):  # a device that cannot compute in it
        return False


def _product_speed(device_type: str, dtype: torch.dtype) -> float:
    """Return the operations a second of the best of several products; on a CPU those of one thread."""
    return (_speed_of_thread if device_type == "cpu" else _speed_of_device)(device_type, dtype)


def _speed_of_thread(device_type: str, dtype: torch.dtype) -> float:
    """Time one thread by its own processor time, which excludes the time that others used the processor."""
    import torch

    threads = torch.get_num_threads()
    matrix = torch.ones(_MATRIX, _MATRIX, dtype=dtype, device=device_type)
    torch.set_num_threads(1)
    try:
        best, begin = float("inf"), thread_time()
        while thread_time() < begin + _PROBE_SECONDS:
            start = thread_time()
            torch.mm(matrix, matrix)
            best = min(best, thread_time() - start)
    finally:
        torch.set_num_threads(threads)
    return 2 * _MATRIX**3 / best


def _speed_of_device(device_type: str, dtype: torch.dtype) -> float:
    """Time large products that are enqueued one after the other, and waited for once."""
    import torch

    # Random: a GPU takes less power, and so less time, for equal numbers.
    generator = torch.Generator(device_type).manual_seed(0)
    matrix = torch.randn(_LARGE_MATRIX, _LARGE_MATRIX, generator=generator, dtype=dtype, device=device_type)
    result = torch.empty_like(matrix)
    wait = torch.get_device_module(device_type).synchronize
    best, end = float("inf"), perf_counter() + _PROBE_SECONDS
    for warmed in (False, True, True, True):
        wait()
        start = perf_counter()
        for _ in range(_ENQUEUED if warmed else 1):
            torch.mm(matrix, matrix, out=result)
        wait()
        if warmed:
            best = min(best, (perf_counter() - start) / _ENQUEUED)
            if perf_counter() > end:
                break
    return 2 * _LARGE_MATRIX**3 / best


def sum_over_ranks(values: Sequence[float], world: int) -> list[float]:
    """Return the sums of these values over all `world` ranks; exact for counts."""
    return _reduce(values, world, "SUM")


def max_over_ranks(values: Sequence[float], world: int) -> list[float]:
    """Return the maxima of these values over all `world` ranks."""
    return _reduce(values, world, "MAX")


def _reduce(values: Sequence[float], world: int, operation: str) -> list[float]:
    if world == 1:
        return list(values)
    import torch

    tensor: Any = torch.tensor(values, dtype=torch.float64)
    torch.distributed.all_reduce(tensor, getattr(torch.distributed.ReduceOp, operation))
    return list(tensor.tolist())


_TURN = threading.RLock()


_LOOK_SECONDS = 0.5


@contextmanager
def isolated_rng(seed: int | None = None, waiting: Callable[[str], None] | None = None) -> Iterator[None]:
    """Run with exclusive, seeded, restored global RNG state.

    Blocks nest within a thread. Code in the block must not wait for another thread that wants a turn.

    Args:
        seed: seed of Python's, NumPy's and torch's generators; None leaves them as they are.
        waiting: called once if another thread has the lock.
    """
    _take_turn(waiting)
    try:
        with _restore_generators():
            if seed is not None:
                seed_generators(seed)
            yield
    finally:
        _TURN.release()


def _take_turn(waiting: Callable[[str], None] | None) -> None:
    if _TURN.acquire(timeout=_LOOK_SECONDS):
        return
    if waiting is not None:
        waiting("another run of this process is building or training a model; waiting for its turn to end")
    while not _TURN.acquire(timeout=_LOOK_SECONDS):  # a wait without end could not be interrupted on Windows
        pass


def seed_generators(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators, on all devices. `seed` is from 0 to 2³² - 1."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


@contextmanager
def _restore_generators() -> Iterator[None]:
    import numpy as np
    import torch

    cuda: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if cuda else ()
    python, numpys = random.getstate(), np.random.get_state()  # libraries draw from both
    metal = torch.mps.get_rng_state() if torch.backends.mps.is_available() else None
    try:
        with torch.random.fork_rng(devices=devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpys)
        if metal is not None:
            torch.mps.set_rng_state(metal)
