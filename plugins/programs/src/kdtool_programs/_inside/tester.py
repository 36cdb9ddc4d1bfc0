"""The tester of one worker: the first process of its sandbox. It takes tasks off standard input, one after the other.

Only it runs tests and gives verdicts. Nothing of a program under test runs in it: each candidate is started by the keeper,
takes its program off the stream itself, and answers questions.
"""

from __future__ import annotations

import _socket
import _thread
import builtins
import gc
import os
import resource
import select
import signal
import stat
import sys
import time
from typing import Any

from kdtool_programs._inside.confining import forbid_calls, hide, share_heaps, stay_on
from kdtool_programs._inside.frames import encode_json, read_message, write_message
from kdtool_programs._inside.keeper import DESCRIPTOR_BYTES, keep
from kdtool_programs._inside.rehearsal import rehearse
from kdtool_programs._inside.trial import hear_alarms, run_trial

__all__ = ["serve"]

_HANDING_OVER = 10.0
"""Seconds that a candidate has for reading its program."""
_ENDING = 5.0
"""Seconds that the keeper has for ending a task."""
_GROWTH = 64 * 2**10
"""KiB that the tester may have held, at one time or another, more than at its start."""


def serve(greeting: dict[str, Any]) -> None:
    """Answer tasks until standard input ends, or until something was left that only a new sandbox is free of."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if greeting["filter"]:
        hide()
        forbid_calls(greeting["filter"])
    share_heaps()
    everywhere = os.sched_getaffinity(0)
    # Tester and candidate take turns: to wake another processor for each turn is dear.
    stay_on({sorted(everywhere)[greeting["number"] % len(everywhere)]})
    keeper, control = _with_keeper(everywhere, greeting["of tasks"])
    hear_alarms()
    tester = _Tester(control, stream=os.dup(0), verdicts=os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    remarks = os.dup(2)
    for descriptor in (0, 1, 2):  # output of tests is discarded
        os.dup2(null, descriptor)
    try:
        if tester.serve():
            control.close()
            os.waitpid(keeper, 0)  # so that whoever waits for this process is told of its time, too
    except BaseException as error:
        os.write(remarks, f"{type(error).__name__}: {error}".encode("utf-8", "replace"))
        os._exit(1)


def _with_keeper(everywhere: set[int], of_tasks: bytes) -> tuple[int, _socket.socket]:
    """Start the keeper, while there is nothing that it should not know."""
    isolated = os.getpid() == 1
    to_keeper, to_tester = _socket.socketpair()
    rehearse()
    gc.collect()
    gc.freeze()
    if keeper := os.fork():
        to_tester.close()
        return keeper, to_keeper
    try:
        gc.disable()
        to_keeper.close()
        os.close(1)
        keep(to_tester, everywhere, isolated, of_tasks)
    except BaseException as error:
        os.write(2, f"the keeper ended: {type(error).__name__}: {error}".encode("utf-8", "replace"))
    finally:
        os._exit(0)


class _Tester:
    def __init__(self, control: _socket.socket, stream: int, verdicts: int) -> None:
        self._control = control
        self._stream = stream
        self._verdicts = verdicts
        self._addresses = resource.getrlimit(resource.RLIMIT_AS)
        self._folder = os.open(".", os.O_PATH)  # a program may close it to everybody
        self._isolated = os.getpid() == 1
        self._untouched = self._state()
        self._largest = _peak_memory() + _GROWTH

    def serve(self) -> bool:
        """Take tasks, and give a verdict on each, until they end. Return whether they left nothing in the folder."""
        self._greet()
        while (task := read_message(self._stream)) is not None:
            verdict = self._of_program(task) if "steps" in task else self._of_module(task["limits"])
            verdict["retire"] = verdict.get("retire", False) or self._state() != self._untouched or self._has_grown()
            write_message(self._verdicts, verdict)
            if verdict["retire"]:
                return False
        return True

    def _greet(self) -> None:
        """Announce that tasks can come, and pass on the folder, so that its files can be counted from outside."""
        if not self._isolated or not stat.S_ISSOCK(os.fstat(self._verdicts).st_mode):
            return write_message(self._verdicts, {})
        message = encode_json({})
        stream = _socket.socket(fileno=os.dup(self._verdicts))
        folder = self._folder.to_bytes(DESCRIPTOR_BYTES, sys.byteorder)
        stream.sendmsg([len(message).to_bytes(8, "big") + message], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, folder)])
        stream.close()
        return None

    def _of_program(self, task: dict[str, Any]) -> dict[str, Any]:
        self._ask("run", task)
        seconds = sum(step["clock"] for step in task["steps"])
        while _is_ready(self._control.fileno(), seconds + 2 * _ENDING):
            answer = read_message(self._control.fileno())
            if answer is None:
                return {"status": "failed", "reason": "it has ended what should end it", "retire": True}
            if "status" in answer:
                return {**answer, "retire": True}
            write_message(self._verdicts, answer)
        return {"status": "timed out", "reason": "it has stopped what should end it", "retire": True}

    def _of_module(self, limits: dict[str, Any]) -> dict[str, Any]:
        used = time.process_time()
        process = os.getpid()
        self._ask("begin", limits)
        reading, writing = self._receive_pipes()
        try:
            if not _is_ready(reading, _HANDING_OVER) or os.read(reading, 1) != b"!":
                return {"status": "failed", "reason": "the program could not be handed over", "retire": True}
            task = read_message(self._stream)  # only now has the candidate taken its part off the same stream
            self._limit(limits["memory"])
            verdict = run_trial(reading, writing, task, limits)
            if os.getpid() != process:  # tests have forked
                os._exit(1)
            self._limit(None)
        finally:
            os.close(reading)
            os.close(writing)
        ended = self._end_task()
        _reap()
        if ended is None:
            return {**verdict, "retire": True}
        processor = time.process_time() - used + ended["processor"]
        if processor > limits["processor"]:
            verdict |= {"status": "timed out", "reason": limits["over"], "late": False}
        if verdict["status"] == "timed out":  # its tests were ended wherever they were
            verdict["retire"] = True
        if verdict["status"] == "failed" and ended["signal"] not in {"", "SIGKILL"}:
            verdict["reason"] += f" ({ended['signal']})"
        return {**verdict, "cpu_seconds": processor}

    def _limit(self, memory: int | None) -> None:
        soft, hard = self._addresses
        wanted = memory or soft
        resource.setrlimit(resource.RLIMIT_AS, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))

    def _end_task(self) -> dict[str, Any] | None:
        """End the task, and return its outcome; None if it killed or stopped the keeper, or the keeper does not answer."""
        try:
            self._ask("end")
            ended: dict[str, Any] | None = None
            if _is_ready(self._control.fileno(), _ENDING):
                ended = read_message(self._control.fileno())
        except OSError:
            return None
        return ended

    def _ask(self, *what: Any) -> None:
        write_message(self._control.fileno(), what)

    def _receive_pipes(self) -> tuple[int, int]:
        _, handed, _, _ = self._control.recvmsg(1, _socket.CMSG_SPACE(2 * DESCRIPTOR_BYTES))
        ((_, _, ends),) = handed
        reading, writing = (
            int.from_bytes(ends[at : at + DESCRIPTOR_BYTES], sys.byteorder) for at in (0, DESCRIPTOR_BYTES)
        )
        return reading, writing

    def _state(self) -> tuple[object, ...]:
        """Return what a program may have left in the one folder that can be written, and tests in this process.

        Any file, name, mode or attribute changes the folder. A file without a name takes its space, and outlives its program
        if it is in a cycle of sockets that keep each other open.
        """
        folder, space = os.fstat(self._folder), os.fstatvfs(self._folder)
        free = (space.f_bfree, space.f_ffree) if self._isolated else None  # elsewhere others use it, too
        return (
            (folder.st_mode, folder.st_ctime_ns, _place(), free),
            (sys.stdin, sys.stdout, sys.stderr, sys.getrecursionlimit(), sys.get_int_max_str_digits()),
            (_thread._count(), signal.getsignal(signal.SIGALRM)),
            vars(builtins).copy(),
        )

    def _has_grown(self) -> bool:
        return _peak_memory() > self._largest


def _place() -> object:
    try:
        return os.getcwd()  # noqa: PTH109 (pathlib is slow to import)
    except OSError:
        return None


def _peak_memory() -> int:
    """Return the peak memory of this process, in KiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _is_ready(descriptor: int, seconds: float) -> bool:
    return bool(select.select([descriptor], [], [], seconds)[0])


def _reap() -> None:
    """Reap processes that tests have left; the keeper has ended them."""
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass
