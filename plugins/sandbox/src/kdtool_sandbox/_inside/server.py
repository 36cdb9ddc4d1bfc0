"""The server of one worker: the first process of its sandbox. It takes tasks off standard input, one after the other.

It never reads a program or its tests: each process takes its own part off the stream, so that a program finds neither its
own tests nor an earlier task's in the memory that it inherits.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from kdtool_sandbox._inside.candidate import answer
from kdtool_sandbox._inside.confining import confine, forbid_calls, limit
from kdtool_sandbox._inside.frames import decoded, read_message, write_message
from kdtool_sandbox._inside.tester import BEGUN, judge

__all__ = ["serve"]

_HANDING_OVER = 10.0
"""Seconds that candidate and tester have for reading their parts."""
_PORTION = 2**16
_TAIL = 4000


def serve(greeting: dict[str, Any]) -> None:
    """Answer tasks until standard input ends, or until something was left that only a new sandbox is free of."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, programs expect what they do by default
        signal.signal(number, signal.SIG_DFL)
    if greeting["filter"]:
        forbid_calls(bytes.fromhex(greeting["filter"]))
    gc.collect()
    gc.disable()
    gc.freeze()
    folder = os.open(".", os.O_PATH)  # a program may close it to everybody
    untouched = _state(folder)
    write_message(1, {"python": sys.version.split()[0]})
    while (task := read_message(0)) is not None:
        worker = _Task(task["limits"])
        verdict = worker.run_program(task) if "steps" in task else worker.run_module()
        verdict["retire"] = verdict.get("retire", False) or _state(folder) != untouched
        write_message(1, verdict)
        if verdict["retire"]:
            return


def _state(folder: int) -> tuple[int, int]:
    """Return what changes with any file, name, mode or attribute in the one folder that can be written."""
    status = os.fstat(folder)
    return status.st_mode, status.st_ctime_ns


class _Task:
    """One task: what was started for it, and what that took."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self._limits = limits
        self._started: list[int] = []
        self._processor = 0.0
        self._since = time.monotonic()

    def run_module(self) -> dict[str, Any]:
        """Run a candidate and its tester."""
        questions, answers, reports = os.pipe(), os.pipe(), os.pipe()
        candidate = self._fork(lambda: self._in_candidate(questions[0], answers[1]))
        self._fork(lambda: self._in_tester(answers[0], questions[1], reports[1]))
        for descriptor in (*questions, *answers, reports[1]):
            os.close(descriptor)
        reading = reports[0]
        try:
            verdict = self._verdict(reading)
        finally:
            os.close(reading)
        ended = self._end()
        if verdict["status"] == "failed" and (number := _signal(ended[candidate])) not in {"", "SIGKILL"}:
            verdict["reason"] += f" ({number})"
        return self._counted(verdict)

    def _in_candidate(self, *descriptors: int) -> None:
        answer(confine(len(descriptors), self._limits), *_from_three(descriptors))

    def _in_tester(self, *descriptors: int) -> None:
        judge(confine(len(descriptors), self._limits), *_from_three(descriptors))

    def _verdict(self, reading: int) -> dict[str, Any]:
        data = _portion(reading, time.monotonic() + _HANDING_OVER)
        if not data:
            return {"status": "failed", "reason": "the program could not be handed over", "retire": True}
        self._since = time.monotonic()
        deadline = self._since + self._limits["seconds"]
        data = data.removeprefix(BEGUN)
        while len(data) < 8 or len(data) < 8 + int.from_bytes(data[:8], "big"):
            portion = _portion(reading, deadline)
            if portion is None:
                return {"status": "timed out", "reason": f"no verdict within {self._limits['seconds']:g} s"}
            if not portion:
                return {"status": "failed", "reason": "the tests were ended from outside"}
            data += portion
        verdict: dict[str, Any] = decoded(data[8:])
        return verdict

    def run_program(self, task: dict[str, Any]) -> dict[str, Any]:
        """Write a program's files and run its steps, each of which must end with 0."""
        for name, text in task["files"].items():
            with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:  # noqa: PTH123 (pathlib is slow to import)
                file.write(text)
        verdict: dict[str, Any] = {"status": "passed", "reason": ""}
        for step in task["steps"]:
            self._limits["seconds"] = step["seconds"]
            verdict = self._run_step(step)
            if verdict["status"] != "passed":
                break
        return self._counted({**verdict, "retire": True})

    def _run_step(self, step: dict[str, Any]) -> dict[str, Any]:
        reading, writing = os.pipe()
        deadline = time.monotonic() + step["seconds"]
        process = self._fork(lambda: self._in_program(step, writing))
        os.close(writing)
        watch = os.pidfd_open(process)
        output, ended_in_time = _output(reading, watch, deadline)
        os.close(reading)
        os.close(watch)
        status = self._end()[process]
        stderr = output.decode("utf-8", "replace")
        if not ended_in_time:
            return {
                "status": "timed out",
                "reason": f"{step['what']}: more than {step['seconds']:g} s",
                "stderr": stderr,
            }
        if status == 0:
            return {"status": "passed", "reason": "", "stderr": stderr}
        reason = _signal(status) or f"exit code {os.waitstatus_to_exitcode(status)}"
        return {"status": "failed", "reason": f"{step['what']}: {reason}", "stderr": stderr}

    def _in_program(self, step: dict[str, Any], writing: int) -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream, descriptor in ((0, null), (1, null), (2, writing)):
            os.dup2(descriptor, stream)
        os.closerange(3, 2**20)
        limit(self._limits)
        os.execv(step["command"][0], step["command"])  # noqa: S606 (no shell is wanted)

    def _fork(self, work: Callable[[], None]) -> int:
        process = os.fork()
        if process:
            self._started.append(process)
            return process
        code = 1
        try:
            os.setsid()
            gc.enable()
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_TAIL])
        finally:
            os._exit(code)

    def _end(self) -> dict[int, int]:
        """End whatever the task started, in whatever session it is, and return how each process ended."""
        ended: dict[int, int] = {}
        if os.getpid() == 1:  # everything else in here belongs to the task
            targets: list[tuple[Callable[[int, int], None], int]] = [(os.kill, -1)]
        else:
            targets = [(kill, process) for process in self._started for kill in (os.killpg, os.kill)]
        for kill, process in targets:
            with suppress(ProcessLookupError, PermissionError):
                kill(process, signal.SIGKILL)
        while True:
            try:
                process, status, usage = os.wait4(-1, 0)
            except ChildProcessError:
                self._started.clear()
                return ended
            ended[process] = status
            self._processor += usage.ru_utime + usage.ru_stime

    def _counted(self, verdict: dict[str, Any]) -> dict[str, Any]:
        return {**verdict, "wall_seconds": time.monotonic() - self._since, "cpu_seconds": self._processor}


def _from_three(descriptors: tuple[int, ...]) -> list[int]:
    """Give descriptors the numbers 3 and following."""
    aside = [os.dup2(descriptor, 500 + descriptor) for descriptor in descriptors]
    return [os.dup2(descriptor, number) for number, descriptor in enumerate(aside, 3)]


def _portion(descriptor: int, deadline: float) -> bytes | None:
    """Return what can be read next, nothing where the other end is closed, and None where time is over."""
    left = deadline - time.monotonic()
    if left <= 0 or not select.select([descriptor], [], [], left)[0]:
        return None
    return os.read(descriptor, _PORTION)


def _output(reading: int, process: int, deadline: float) -> tuple[bytes, bool]:
    """Return the end of what a process writes, and whether it ended in time; others may hold its pipe longer."""
    tail = b""
    waiting = [reading, process]
    while (left := deadline - time.monotonic()) > 0:
        ready = select.select(waiting, [], [], left)[0]
        if reading in select.select(waiting, [], [], 0)[0]:
            portion = os.read(reading, _PORTION)  # all that a pipe holds
            tail = (tail + portion)[-_TAIL:]
            if not portion:
                waiting.remove(reading)
        if process in ready:
            return tail, True
    return tail, False


def _signal(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    return signal.Signals(-code).name if code < 0 else ""
