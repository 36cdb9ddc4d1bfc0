"""Batches and signals on another device: a trainer's, or that of a teacher that computes elsewhere than the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["copy_to_host", "map_tensors", "move", "original_of"]

T = TypeVar("T")


def move(value: T, device: torch.device) -> T:
    """Return a record of tensors, also nested ones, on `device`; tensors that are there already are not copied.

    Copies to a GPU are made from pinned memory and only queued: what is computed from them there waits by itself. The main
    memory does not wait for a GPU, so a copy to it does.
    """
    return map_tensors(lambda tensor: _copy(tensor, device), value)


def map_tensors(function: Callable[[Tensor], Tensor], value: T) -> T:
    """Return a record with `function` of each of its tensors, also in nested mappings, tuples and dataclasses."""
    import torch

    mapped: Any = value
    if isinstance(value, torch.Tensor):
        mapped = function(value)
    elif isinstance(value, Mapping):
        mapped = {key: map_tensors(function, item) for key, item in value.items()}
    elif isinstance(value, tuple):
        items = [map_tensors(function, item) for item in value]
        mapped = type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    elif is_dataclass(value) and not isinstance(value, type):
        mapped = replace(
            value, **{field.name: map_tensors(function, getattr(value, field.name)) for field in fields(value)}
        )
    result: T = mapped
    return result


def copy_to_host(tensors: Sequence[Tensor]) -> Callable[[], list[Tensor]]:
    """Start to copy tensors to main memory, and return a function that waits for the copies and returns them.

    It can be called in another thread. All tensors are on one device, and are copied on a CPU too.
    """
    import torch

    copies = [tensor.detach().to("cpu", non_blocking=tensor.is_cuda, copy=True) for tensor in tensors]
    copied = None
    if tensors and tensors[0].is_cuda:
        copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
        copied.record(torch.cuda.current_stream(tensors[0].device))

    def wait() -> list[Tensor]:
        if copied is not None:
            copied.synchronize()
        return copies

    return wait


def original_of(tensor: Tensor) -> Tensor:
    """Return the same values in main memory: the tensor that `move` copied, else a new copy, for which a GPU waits."""
    if tensor.device.type == "cpu":
        return tensor
    original: Tensor | None = _originals().get(tensor)
    return tensor.cpu() if original is None else original


def _copy(tensor: Tensor, device: torch.device) -> Tensor:
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    copy = tensor.to(device, non_blocking=device.type != "cpu")
    original = tensor if tensor.device.type == "cpu" else _originals().get(tensor)
    if original is not None and copy.device.type != "cpu" and not tensor.is_floating_point():
        _originals()[copy] = original
    return copy


@cache
def _originals() -> Any:
    from torch.utils.weak import WeakTensorKeyDictionary

    return WeakTensorKeyDictionary()
