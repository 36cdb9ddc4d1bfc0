"""Precision and memory of training on this machine: dtype, chunk sizes, frozen weights, the C library's allocator.

Autocast keeps its copies of weights that learn, but casts frozen ones again at each use. Kept in its dtype while a
phase trains they are cast once, and take half the memory. Products are the same bit for bit: embeddings are only cast
if the dtype has all their values, and looked-up states are float32 as before.
"""

from __future__ import annotations

import ctypes
import gc
import platform
import sys
from collections.abc import Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import psutil
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from kdtool_torch.device import DtypeName, compute_dtype, has_bfloat16
from kdtool_torch.estimates import stored_bytes

_M_MXFAST, _M_TRIM_THRESHOLD, _M_MMAP_MAX = 1, -1, -4  # from malloc.h
_FAST_DEFAULT, _TRIM_DEFAULT, _MMAP_DEFAULT = 16 * ctypes.sizeof(ctypes.c_size_t), 128 * 1024, 65536


def chosen_dtype(name: DtypeName, device: torch.device) -> torch.dtype:
    """Return the dtype of matrix products: for "auto" float16 on GPUs too old for bfloat16, else the faster one."""
    if name == "auto" and device.type == "cuda" and not has_bfloat16():
        return torch.float16
    return compute_dtype(name, device)


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


_FLOAT = 4


class _Before(NamedTuple):
    """A weight as it was: its dtype, and its values in main memory if the dtype in between lacks some of them."""

    dtype: torch.dtype
    values: Tensor | None


@contextmanager
def frozen_weights_held(model: nn.Module, dtype: torch.dtype) -> Iterator[None]:
    """Keep weights that do not learn in `dtype`, the dtype of products, while the block runs; then restore them.

    Weights are looked up by name, since FSDP2 replaces the parameters in between. They are also restored if the block
    fails, except those that FSDP2 still divides then: such a student is incomplete and cannot be used.
    """
    before: dict[str, _Before] = {}
    targets = frozen_dtypes(model, dtype)
    looked_up = {id(module.weight) for module in _embeddings(model)}
    for name, parameter in model.named_parameters():
        target = targets.get(name, parameter.dtype)
        if target == parameter.dtype:
            continue
        held = parameter.data.to(target)
        exact = torch.equal(held.to(parameter.dtype), parameter.data)
        if exact or id(parameter) not in looked_up:
            before[name] = _Before(parameter.dtype, None if exact else parameter.data.cpu())
            parameter.data = held
    try:
        with looked_up_in_float32(model):
            yield
    finally:
        _give_back(model, before)


def _give_back(model: nn.Module, before: Mapping[str, _Before]) -> None:
    now = dict(model.named_parameters())
    for name, was in before.items():
        parameter = now.get(name)
        if parameter is None or isinstance(parameter.data, DTensor):  # a phase that failed is still divided
            continue
        data = parameter.data
        parameter.data = data.to(was.dtype) if was.values is None else was.values.to(data.device)


def frozen_bytes(model: nn.Module, dtype: torch.dtype) -> tuple[int, int]:
    """Return what the frozen weights of an outline take while a phase trains, and what is kept of them in main memory.

    Values are unknown: weights of a wider dtype are assumed to need it, so embeddings stay in it and others keep a copy.
    """
    targets, held, kept = frozen_dtypes(model, dtype), 0, 0
    looked_up = {id(module.weight) for module in _embeddings(model)}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            continue
        stored = stored_bytes(parameter)
        size = parameter.numel() * targets[name].itemsize if name in targets else stored
        wider = size < stored
        held += stored if wider and id(parameter) in looked_up else size
        kept += stored if wider and id(parameter) not in looked_up else 0
    return held, kept


def frozen_dtypes(model: nn.Module, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return the dtype of each frozen weight while a phase trains, by name.

    Numbers that hold several weights each are left out, and so are weights that share memory with one that learns.
    """
    learning = {_memory(p) for p in model.parameters() if p.requires_grad}
    owners: dict[int, set[type]] = {}
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            owners.setdefault(id(parameter), set()).add(type(module))
    of_products = _product_layers()
    products = {
        id(module.weight)
        for module in model.modules()
        if type(module) in of_products and owners[id(module.weight)] <= of_products
    }
    return {
        name: dtype if id(parameter) in products else torch.float32
        for name, parameter in model.named_parameters()
        if not parameter.requires_grad
        and parameter.dtype in (torch.float32, torch.bfloat16, torch.float16)
        and stored_bytes(parameter) == parameter.numel() * parameter.dtype.itemsize
        and _memory(parameter) not in learning
    }


def _product_layers() -> set[type]:
    """Return the classes of layers whose weights autocast casts, or that are looked up in.

    Others, such as norms, and embeddings that scale what they look up, compute in float32. transformers is not imported for
    its class: a model that has such layers did so.
    """
    loaded = sys.modules.get("transformers.pytorch_utils")
    return {nn.Linear, nn.Embedding, *([] if loaded is None else [loaded.Conv1D])}


def _memory(parameter: nn.Parameter) -> Hashable:
    """Return a key of a parameter's memory; parameters may share a file."""
    return parameter.untyped_storage()._cdata, parameter.storage_offset()


def _embeddings(model: nn.Module) -> Iterator[Any]:
    return (module for module in model.modules() if type(module) is nn.Embedding and not module.weight.requires_grad)


@contextmanager
def looked_up_in_float32(model: nn.Module) -> Iterator[None]:
    """Have embeddings that are kept in half precision return float32, so that all sums with them are float32, too."""
    half = [module for module in _embeddings(model) if module.weight.dtype.itemsize < _FLOAT]
    hooks = [module.register_forward_hook(_to_float32) for module in half]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _to_float32(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    return output.float()
