"""Batches and signals on another device, for a teacher that computes elsewhere than the student."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

__all__ = ["copy_to_host", "move"]

T = TypeVar("T")


def move(value: T, device: torch.device) -> T:
    """Return a record of tensors, also nested ones, on `device`; tensors that are there already are not copied.

    Copies to a GPU are only queued: what is computed from them there waits by itself. The main memory does not wait for a
    GPU, so a copy to it does.
    """
    import torch

    moved: Any = value
    if isinstance(value, torch.Tensor):
        moved = value.to(device, non_blocking=device.type != "cpu")
    elif isinstance(value, Mapping):
        moved = {key: move(item, device) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        moved = replace(value, **{field.name: move(getattr(value, field.name), device) for field in fields(value)})
    result: T = moved
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
