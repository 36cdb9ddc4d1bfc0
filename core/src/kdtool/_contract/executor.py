"""Executors, which decide where the stages of a run are made."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from kdtool._contract.component import Component, hook
from kdtool._contract.run_info import RunInfo


def torchrun(command: Sequence[str], processes: int, *options: str) -> list[str]:
    """Return the command by which torchrun starts a `command` as several processes on this machine.

    As for all processes of kdtool, Python's `-P` keeps the working directory out: it may be a model's folder.
    """
    start = [sys.executable, "-P", "-m", "torch.distributed.run", *(options or ["--standalone"])]
    return [*start, "--nproc-per-node", str(processes), "--no-python", *command]


@dataclass(frozen=True)
class Task:
    """A stage of a run, to be made in another process; it can be pickled.

    That process needs the same packages, and the run's folder, the store and the recipe's files under the same paths.

    Attributes:
        name: the stage's name, such as `phases/student-seed0-train`.
        title: the stage in words, such as "training of student, seed 0".
        folder: the run's folder.
        attempt: distinguishes the processes in which the stage was begun.
        memory: bytes of main memory that it needs, by the estimate of `kdtool check`; 0 if unknown.
        device_memory: the same of a GPU; 0 if it needs none, or an unknown amount.
        divisible: whether several processes of torchrun, on one or more machines, can make it together.
        module: the module that makes it.
        runs_models: whether models compute while it is made, so that a GPU is of use.
    """

    name: str
    title: str
    folder: Path
    attempt: str = "0"
    memory: int = 0
    device_memory: int = 0
    divisible: bool = False
    module: str = "kdtool._run.worker"
    runs_models: bool = True

    def command(self, processes: int = 1, machines: int = 1, machine: int = 0, main: str = "") -> list[str]:
        """Return the command that makes the stage and ends with exit code 0.

        Args:
            processes: how many make a divisible stage together on each machine; more than one are started by torchrun.
            machines: how many machines make it together. Each runs the command with its number.
            machine: the number of this machine, from 0.
            main: HOST:PORT of a free port of machine 0, if there are several machines.
        """
        command = [sys.executable, "-P", "-m", self.module, str(self.folder), self.name, self.attempt]
        if machines > 1:
            host, _, port = main.rpartition(":")
            where = ("--nnodes", str(machines), "--node-rank", str(machine))
            return torchrun(command, processes, *where, "--master-addr", host.strip("[]"), "--master-port", port)
        return torchrun(command, processes) if processes > 1 else command

    def make(self) -> None:
        """Make the stage in this process, without its trackers: one at a time, in the main thread.

        A process that makes several stages of a run opens the recipe and the libraries only once.

        Raises:
            Exception: the stage failed. The process that submitted the task gets the reason through the run's folder.
        """
        import_module(self.module).make_stage(self.folder, self.name, self.attempt)


class Submitted(Protocol):
    """A submitted task: a `concurrent.futures.Future`, a job of submitit, a future of Dask, or alike."""

    def done(self) -> bool:
        """Return at once whether the process has ended, also if it was killed."""

    def result(self) -> object:
        """Raise the reason for which the process ended, if it failed or was killed; called once it is done."""

    def cancel(self) -> object:
        """End the process, or never start it; return without waiting. Safe to call on one that is done."""


class Executor(Component):
    """Decides where the stages of a run are made. Without one, the process of the run makes them all."""

    kind = "executor"

    @hook(needed=True)
    def kdtool_submit(self, run: RunInfo, task: Task) -> Submitted:
        """Start a process that calls `task.make()` or runs `task.command()`, now or when resources are free.

        Called once the artefacts that the stage needs are complete; returns without waiting. If the process
        is killed, kdtool submits the stage again, as another attempt. Success is known from the stage's artefact, and the
        reason of a failure from the run's folder. On rank 0, in the main thread. Since 0.1.
        """
        raise NotImplementedError
