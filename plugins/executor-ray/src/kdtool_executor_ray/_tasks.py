"""Functions that run in workers of Ray: they make a stage, or a machine's part of it."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import tempfile

import kdtool

__all__ = ["find_address", "make", "make_part"]

_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG of Linux."""


def make(task: kdtool.Task, processes: int, cores: int) -> None:
    """Make a stage in this process, or in several of torchrun on this machine, each with `cores` threads."""
    if processes > 1:
        _start(task.command(processes), cores)
        return
    if torch := sys.modules.get("torch"):  # imported for an earlier stage, which may have had other cores
        torch.set_num_threads(cores)
    task.make()


def make_part(task: kdtool.Task, processes: int, cores: int, machines: int, machine: int, main: str) -> None:
    """Make a stage together with other machines, each with as many processes, by torchrun."""
    _start(task.command(processes, machines, machine, main), cores)


def find_address() -> str:
    """Return HOST:PORT of a free port of this machine, as other machines of the cluster reach it."""
    import ray

    with socket.socket() as found:
        found.bind(("", 0))
        return f"{ray.util.get_node_ip_address()}:{found.getsockname()[1]}"


def _start(torchrun: list[str], cores: int) -> None:
    """Run torchrun to its end.

    Its messages are shown only if it fails: where all ends well, machines complain that the first one has left.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(cores)}
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        done = subprocess.run(torchrun, env=environment, stderr=said, check=False, preexec_fn=_die_with_parent)  # noqa: S603
        if done.returncode:
            said.seek(0)
            sys.stderr.write(said.read())
            raise ChildProcessError(f"torchrun ended with exit code {done.returncode}")


def _die_with_parent() -> None:
    """Have torchrun end its processes when the worker that started it is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
