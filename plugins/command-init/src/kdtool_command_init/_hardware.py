"""The second question: this machine as detected, or a GPU elsewhere."""

from __future__ import annotations

import os

import kdtool

from kdtool_command_init._questions import Choice

__all__ = ["HERE", "hardware_choices", "has_gpu", "require_hardware"]

HERE = "here"


def hardware_choices() -> list[Choice]:
    """Return this machine, which is the default, and a GPU by name."""
    affinity = getattr(os, "sched_getaffinity", None)
    cores = len(affinity(0)) if affinity else os.cpu_count() or 1
    return [
        Choice(HERE, f"this machine: {cores} cores, {gpu_here() or 'no GPU'}"),
        Choice("a100-80gb", "a machine elsewhere with a GPU: t4, l4, a100-80gb, h100, …", open=True),
    ]


def require_hardware(hardware: str) -> None:
    """Refuse a name that is neither this machine nor a known GPU.

    Raises:
        UsageError: the GPU is unknown.
    """
    if hardware != HERE:
        kdtool.Gpu.find(hardware)


def has_gpu(hardware: str) -> bool:
    """Return whether an answer is a machine with a GPU."""
    return hardware != HERE or bool(gpu_here())


def gpu_here() -> str:
    """Return the name of the GPU that torch sees; "" without one."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else ""
