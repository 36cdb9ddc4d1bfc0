"""Make a stage in a worker of Ray."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys

import kdtool

__all__ = ["make"]

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""


def make(task: kdtool.Task, processes: int, cores: int) -> None:
    """Make a stage in this process, or in several of torchrun on this machine, each with `cores` threads."""
    if processes > 1:
        _start_torchrun(task, processes, cores)
        return
    if torch := sys.modules.get("torch"):  # imported for an earlier stage, which may have had other cores
        torch.set_num_threads(cores)
    task.make()


def _start_torchrun(task: kdtool.Task, processes: int, cores: int) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
    done = subprocess.run(task.command(processes), env=environment, check=False, preexec_fn=_die_with_parent)  # noqa: S603
    if done.returncode:
        raise ChildProcessError(f"torchrun ended with exit code {done.returncode}")


def _die_with_parent() -> None:
    """Have torchrun end its processes when the worker that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
