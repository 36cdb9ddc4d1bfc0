"""A task as it is handed to a worker: its program, its tests, and its limits on this machine."""

from __future__ import annotations

import json
import os
import secrets

from kdtool_programs._clock import OF_PROCESSOR, WAITING, Limit
from kdtool_programs._pace import slowness
from kdtool_programs._task import ENDING, Module, Task

__all__ = ["frames_of"]

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
        limit = Limit(times * task.seconds, 1, f"no verdict within {task.seconds:g} s", starts_others=False)
        inside = _limits_inside(limit, f"no verdict within {WAITING * task.seconds:g} s")
        limits = {"memory": task.memory, "processes": _MODULE_PROCESSES, "files": _MODULE_FILES, **inside}
        tests = {"helpers": work.helpers, "tests": work.tests, "names": list(work.names)}
        source = work.source.encode("utf-8", "surrogatepass")
        return [json.dumps({"limits": limits}).encode(), source, json.dumps(tests).encode()], [limit]
    ending = secrets.token_hex(_ENDING_BYTES)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    bounds, steps = [], []
    for step in work.steps:
        seconds = task.seconds if step.seconds is None else step.seconds
        bounds.append(Limit(times * seconds, processors, f"{step.what}: more than {seconds:g} s", starts_others=True))
        inside = _limits_inside(bounds[-1], f"{step.what}: more than {WAITING * seconds:g} s")
        steps.append(
            {"command": step.command, "what": step.what, "ending": step.ending.replace(ENDING, ending), **inside}
        )
    files = {name: text.replace(ENDING, ending) for name, text in work.files.items()}
    limits = {"memory": 0, "processes": _PROGRAM_PROCESSES, "files": _PROGRAM_FILES}
    return [json.dumps({"limits": limits, "files": files, "steps": steps}).encode()], bounds


def _limits_inside(limit: Limit, late: str) -> dict[str, object]:
    """Return the limits that the sandbox itself enforces: processor time when a program has ended, and time on the clock."""
    return {
        "seconds": limit.seconds,
        "processor": limit.seconds * limit.processors,
        "over": limit.reason + OF_PROCESSOR,
        "clock": WAITING * limit.seconds,
        "late": f"{late}, for most of which it waited for a processor",
    }
