"""Tasks and verdicts, input and output of the sandbox, and the time limits of a task on this machine.

Limits are those of a machine of known speed, and scale with this machine's speed at Python. A task is charged with the time
on the clock minus the time for which it waited for a processor: on an idle machine nothing is subtracted, on a busy one each
task gets as much processor time as elsewhere, and takes longer. All processor time counts: of the tests, of the program and
of the processes that it starts. Only the time for which tests and program wait is subtracted, or a program could sleep while
its children wait. Compilers are different: their children do the work.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

import kdtool

from kdtool_programs.processes import times_of

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
    forks: bool = False
    """True if its functions run in processes that they start: time for which these wait for a processor is not charged."""


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


class SandboxError(kdtool.KdtoolError):
    """Generated code cannot be executed safely on this machine."""

    exit_code = 10


_MODULE_PROCESSES, _PROGRAM_PROCESSES = 64, 192
"""Threads among them: a pool of Python's has 32, and a program that starts one for each of 50 things is not a bomb."""
_MODULE_FILES, _PROGRAM_FILES = 64, 256
"""Descriptors of a process. Pipes take two, and their memory is not counted."""
_ENDING_BYTES = 16


def frames_of(task: Task) -> tuple[list[bytes], list[Limit]]:
    """Return the frames of a task, and the limits of its module or steps on this machine.

    Verdicts contain the task's own limit, so that they are the same on all machines.
    """
    work, times = task.work, slowness()
    if isinstance(work, Module):
        limit = Limit(times * task.seconds, 1, f"no verdict within {task.seconds:g} s", starts_others=work.forks)
        inside = _limits_inside(limit, f"no verdict within {WAITING * task.seconds:g} s")
        limits = {"memory": task.memory, "processes": _MODULE_PROCESSES, "files": _MODULE_FILES, **inside}
        tests = {"helpers": work.helpers, "tests": work.tests, "names": list(work.names)}
        source = work.source.encode("utf-8", "surrogatepass")
        return [json.dumps({"limits": limits}).encode(), source, json.dumps(tests).encode()], [limit]
    ending = secrets.token_hex(_ENDING_BYTES)
    bounds, steps = [], []
    for step in work.steps:
        seconds = task.seconds if step.seconds is None else step.seconds
        bounds.append(Limit(times * seconds, processors(), f"{step.what}: more than {seconds:g} s", starts_others=True))
        inside = _limits_inside(bounds[-1], f"{step.what}: more than {WAITING * seconds:g} s")
        steps.append(
            {"command": step.command, "what": step.what, "ending": step.ending.replace(ENDING, ending), **inside}
        )
    files = {name: text.replace(ENDING, ending) for name, text in work.files.items()}
    limits = {"memory": 0, "processes": _PROGRAM_PROCESSES, "files": _PROGRAM_FILES}
    return [json.dumps({"limits": limits, "files": files, "steps": steps}).encode()], bounds


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _limits_inside(limit: Limit, late: str) -> dict[str, object]:
    """Return the limits that the sandbox itself enforces: processor time when a program has ended, and time on the clock."""
    return {
        "seconds": limit.seconds,
        "processor": limit.seconds * limit.processors,
        "over": limit.reason + OF_PROCESSOR,
        "clock": WAITING * limit.seconds,
        "late": f"{late}, for most of which it waited for a processor",
    }


WAITING = 10
"""Times its limit after which a task is ended, however long it waited for a processor."""
OF_PROCESSOR = " of processor time"


@dataclass(frozen=True)
class Limit:
    """Time of a module or of a step: `seconds` on this machine, on each of `processors`; `reason` if it takes longer.

    `starts_others`: waiting of the processes that it starts is subtracted, too.
    """

    seconds: float
    processors: int
    reason: str
    starts_others: bool


class Clock:
    """Measures one module or step, starting now; `process` runs its sandbox."""

    def __init__(self, limit: Limit, process: int) -> None:
        self._limit = limit
        self._process = process
        self._since = time.monotonic()
        before = times_of(process)
        self._lasting = {times.process for times in before.values()}
        self._before_ran = sum(times.ran for times in before.values())
        self._before_waited = sum(times.waited for times in before.values())
        self._used = before
        self.processor = self.wall = 0.0

    def look(self) -> str:
        """Return why the time is over, or "" if it is not; `processor` and `wall` are the seconds until now.

        A thread that has ended counts as it was seen last.
        """
        self.wall = time.monotonic() - self._since
        self._used |= times_of(self._process)
        self.processor = sum(times.ran for times in self._used.values()) - self._before_ran
        charged = max(self.processor / self._limit.processors, self.wall - self._sum_waiting())
        if charged <= self._limit.seconds:
            return ""
        return self._limit.reason + (OF_PROCESSOR if self.processor > charged / 2 else "")

    def _sum_waiting(self) -> float:
        started = {times.process for times in self._used.values()} - self._lasting
        program = min(started, default=0)  # the first process of the task; it starts the others
        ignored = set() if self._limit.starts_others else started - {program}
        waited = sum(times.waited for times in self._used.values() if times.process not in ignored)
        return waited - self._before_waited


_REFERENCE = 0.010
"""Seconds that the workload takes on the machine that limits are for. A server's core that was measured took 0.016."""
_TIMES = 7
_STEPS = 60_000
_MOST = 8.0
"""Under a tracer or a simulator Python is slower still, and what runs in the sandbox is not traced."""


@cache
def slowness() -> float:
    """Return how many times as long as the reference this machine takes for Python, at least 1; measured once in a process.

    It is the processor's time, the least of several measurements, so other work on the machine hardly counts.
    """
    return round(min(_MOST, max(1.0, min(_workload() for _ in range(_TIMES)) / _REFERENCE)), 1)


def _workload() -> float:
    """Return the processor's seconds for arithmetic, a dictionary, a list and text, as tests use them."""
    began = time.thread_time()
    total, seen, texts = 0, dict[int, int](), list[str]()
    for number in range(_STEPS):
        total = (total * 31 + number) & 0xFFFF
        seen[total] = seen.get(total, 0) + 1
        if number % 3 == 0:
            texts.append(str(total))
    "".join(sorted(texts, key=len))
    return time.thread_time() - began
