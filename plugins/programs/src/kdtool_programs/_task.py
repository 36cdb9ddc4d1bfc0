"""Tasks and verdicts: input and output of the sandbox."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

__all__ = ["ENDING", "Isolation", "Module", "Program", "Status", "Step", "Task", "Verdict"]

ENDING = "KDTOOL_END_OF_THE_TESTS"
Status = Literal["passed", "failed", "timed out", "refused"]
Isolation = Literal["isolated", "isolated, verdict forgeable", "UNSAFE: not isolated"]


@dataclass(frozen=True)
class Module:
    """A Python module under test. Its tests run in another process, so it cannot forge the verdict."""

    source: str
    """The whole module: for HumanEval prompt and completion."""
    tests: str
    """Python source that ends normally if, and only if, the module is right."""
    names: tuple[str, ...] = ()
    """Names of the module that the tests use, such as its entry point."""
    helpers: str = ""
    """Further code that the tests use, from the dataset (for HumanEval the prompt); it does not see the module."""


@dataclass(frozen=True)
class Step:
    """A command of a program: absolute path and arguments, what it does for the user to read, and its time limit."""

    command: tuple[str, ...]
    what: str
    seconds: float | None = None
    """As in `Task`; None takes those of the task."""
    ending: str = ""
    """Text that the command's output must end with: without it, an early exit with code 0 has not passed."""


@dataclass(frozen=True)
class Program:
    """Files and the commands that build and run them. Tests are part of the program, so it can forge the verdict.

    `ENDING`, in the files and in steps' endings, stands for a random word that is another one each time a program is run.
    """

    files: Mapping[str, str]
    steps: tuple[Step, ...]
    """All must end with exit code 0, and with their endings."""


@dataclass(frozen=True)
class Task:
    """One thing to run, with its limits."""

    id: str
    work: Module | Program
    seconds: float = 3.0
    """Seconds of processor time and of idle time on a machine that is not slower than the reference; elsewhere `slowness()`
    times as many. Time for which the task waits for a processor does not count, up to ten times as many on the clock."""
    memory: int = 512 * 2**20
    """Bytes: of addresses for each process of a module, of memory for all processes of a task together."""


@dataclass(frozen=True)
class Verdict:
    """Outcome of a task.

    `refused` means that the program could not be judged: its tests do not parse, or it is too large to hand over.
    """

    id: str
    status: Status
    isolation: Isolation
    reason: str = ""
    stderr: str = ""
    """The end of the error output of the tests or the program's commands; control characters are escaped."""
    cpu_seconds: float = 0.0
    wall_seconds: float = 0.0

    @property
    def has_passed(self) -> bool:
        """True if the program passed its tests."""
        return self.status == "passed"
