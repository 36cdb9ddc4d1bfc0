"""A task as it is handed to a worker: its program, its tests, and its limits on this machine."""

from __future__ import annotations

import json
import secrets

from kdtool_sandbox._pace import slowness
from kdtool_sandbox._task import ENDING, Module, Task

__all__ = ["frames_of"]

_MODULE_PROCESSES, _PROGRAM_PROCESSES = 64, 192
"""Threads among them: a pool of Python's has 32, and a program that starts one for each of 50 things is not a bomb."""
_MODULE_FILES, _PROGRAM_FILES = 64, 256
"""Descriptors of a process. Pipes take two, and their memory is not counted."""
_ENDING_BYTES = 16


def frames_of(task: Task) -> tuple[list[bytes], float]:
    """Return the frames of a task, and the seconds that it may take on this machine.

    Verdicts contain the task's own limit, so that they are the same on all machines.
    """
    work, times = task.work, slowness()
    if isinstance(work, Module):
        seconds = times * task.seconds
        limits = {"seconds": seconds, "memory": task.memory, "processes": _MODULE_PROCESSES, "files": _MODULE_FILES}
        limits["told"] = task.seconds
        tests = {"helpers": work.helpers, "tests": work.tests, "names": list(work.names)}
        source = work.source.encode("utf-8", "surrogatepass")
        return [json.dumps({"limits": limits}).encode(), source, json.dumps(tests).encode()], seconds
    told = [task.seconds if step.seconds is None else step.seconds for step in work.steps]
    seconds = times * sum(told)
    ending = secrets.token_hex(_ENDING_BYTES)
    steps = [
        {
            "command": step.command,
            "what": step.what,
            "seconds": times * most,
            "told": most,
            "ending": step.ending.replace(ENDING, ending),
        }
        for step, most in zip(work.steps, told, strict=True)
    ]
    files = {name: text.replace(ENDING, ending) for name, text in work.files.items()}
    limits = {"seconds": seconds, "memory": 0, "processes": _PROGRAM_PROCESSES, "files": _PROGRAM_FILES}
    return [json.dumps({"limits": limits, "files": files, "steps": steps}).encode()], seconds
