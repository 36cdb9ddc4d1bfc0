"""The keeper starts the programs under test, confines them, and ends all processes that they started.

It is the only process that forks for a task, and reads neither modules nor their tests, so a candidate (the process in which
a module under test runs, and which decides nothing) finds nothing of either in the memory that it inherits, nor anything of
an earlier task. It does read programs of other languages, whose sandbox ends with them.

A process is confined before it runs untrusted code: descriptors, standard streams, resources, tracing, system calls.
"""

from __future__ import annotations

import _socket
import ctypes
import gc
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from operator import setitem
from types import ModuleType
from typing import Any

from kdtool_programs.inside.messages import read_frame, read_message, write_message
from kdtool_programs.inside.peer import Peer, digest

_PORTION = 2**16
_TAIL = 4000
_NAMED = frozenset(signal.Signals)
DESCRIPTOR_BYTES = 4
"""Bytes of a descriptor that is handed to another process."""


def keep(control: _socket.socket, everywhere: set[int], isolated: bool, of_tasks: bytes) -> None:
    """Do what the tester asks for on `control` until it ends.

    Programs of other languages may run on the processors `everywhere`; if `isolated`, all other processes are a task's.
    Tasks have the filter `of_tasks` in addition to the keeper's.
    """
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, programs expect what they do by default
        signal.signal(number, signal.SIG_DFL)
    if isolated:
        adopt_orphans()
    keeper = _Keeper(control, everywhere, isolated, of_tasks)
    while (asked := read_message(control.fileno())) is not None:
        keeper.do(*asked)
    keeper.end()


class _Keeper:
    """Starts and ends the processes of the present task."""

    def __init__(self, control: _socket.socket, everywhere: set[int], isolated: bool, of_tasks: bytes) -> None:
        self._of_tasks = of_tasks
        self._everywhere = everywhere
        self._control = control
        self._isolated = isolated
        self._started: list[int] = []
        self._used = 0.0

    def do(self, what: str, *given: Any) -> None:
        """Execute the requests, and report the outcomes."""
        if what == "begin":
            self.begin(*given)
        elif what == "run":
            write_message(self._control.fileno(), self.run_program(*given))
        else:
            ended = {"signal": "".join(map(_signal, self.end().values())), "processor": self._used}
            write_message(self._control.fileno(), ended)
            self._used = 0.0

    def begin(self, limits: dict[str, Any]) -> None:
        """Start a candidate, which takes its program off standard input, and hand over the other ends of its pipes."""
        questions, answers = os.pipe(), os.pipe()
        allowed = limits_of(limits)
        self._fork(lambda: run_candidate(confine(2, allowed), *_from_three((questions[0], answers[1]))))
        ends = b"".join(end.to_bytes(DESCRIPTOR_BYTES, sys.byteorder) for end in (answers[0], questions[1]))
        self._control.sendmsg([b"!"], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, ends)])
        for descriptor in (*questions, *answers):
            os.close(descriptor)

    def run_program(self, task: dict[str, Any]) -> dict[str, Any]:
        """Write a program's files and run its steps, each of which must end with 0, saying which one begins."""
        since = time.monotonic()
        stay_on(self._everywhere)
        for name, text in task["files"].items():
            with open(name, "w", encoding="utf-8", errors="surrogatepass") as file:  # noqa: PTH123 (pathlib is slow to import)
                file.write(text)
        verdict: dict[str, Any] = {"status": "passed", "reason": ""}
        for number, step in enumerate(task["steps"]):
            write_message(self._control.fileno(), {"step": number})
            verdict = self._run_step(step, {**task["limits"], "seconds": step["seconds"]})
            if verdict["status"] != "passed":
                break
        return {**verdict, "wall_seconds": time.monotonic() - since, "cpu_seconds": self._used}

    def _run_step(self, step: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
        reading, writing = os.pipe()
        deadline, used = time.monotonic() + step["clock"], self._used
        process = self._fork(lambda: _become_program(step, writing, limits_of(limits)))
        os.close(writing)
        watch = os.pidfd_open(process)
        output, ended_in_time = _output(reading, watch, deadline)
        os.close(reading)
        os.close(watch)
        status = self.end()[process]
        stderr = output.decode("utf-8", "replace")
        ending = step["ending"]
        has_ended = ending in stderr
        stderr = stderr.replace(ending, "") if ending else stderr
        if self._used - used > step["processor"]:
            return {"status": "timed out", "reason": step["over"], "stderr": stderr}
        if not ended_in_time:
            return {"status": "timed out", "reason": step["late"], "stderr": stderr, "late": True}
        if status == 0 and has_ended:
            return {"status": "passed", "reason": "", "stderr": stderr}
        reason = _signal(status) or f"exit code {os.waitstatus_to_exitcode(status)}"
        if status == 0:
            reason += " before the end of the tests"
        return {"status": "failed", "reason": f"{step['what']}: {reason}", "stderr": stderr}

    def _fork(self, work: Callable[[], None]) -> int:
        process = os.fork()
        if process:
            self._started.append(process)
            return process
        code = 1
        try:
            os.setsid()
            if self._of_tasks:
                forbid_calls(self._of_tasks)
            gc.enable()
            work()
            code = 0
        except BaseException as error:
            os.write(2, f"{type(error).__name__}: {error}".encode("utf-8", "replace")[:_TAIL])
        finally:
            os._exit(code)

    def end(self) -> dict[int, int]:
        """End all processes that the task started, in any session, and return how each process that was started ended."""
        ended: dict[int, int] = {}
        if self._isolated:  # the tester, the first process, is spared, and so is this one
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
            if process in self._started:
                ended[process] = status
            self._used += usage.ru_utime + usage.ru_stime


def _become_program(step: dict[str, Any], writing: int, limits: Limits) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for stream, descriptor in ((0, null), (1, writing if step["ending"] else null), (2, writing)):
        os.dup2(descriptor, stream)
    os.closerange(3, 2**20)
    limit(limits)
    others = {name: value for name, value in os.environ.items() if name != "LD_LIBRARY_PATH"}  # which is for Python
    os.execve(step["command"][0], step["command"], others)  # noqa: S606 (no shell is wanted)


def _from_three(descriptors: tuple[int, ...]) -> list[int]:
    """Renumber descriptors, starting at 3."""
    aside = [os.dup2(descriptor, 500 + descriptor) for descriptor in descriptors]
    return [os.dup2(descriptor, number) for number, descriptor in enumerate(aside, 3)]


def _output(reading: int, process: int, deadline: float) -> tuple[bytes, bool]:
    """Return the end of a process's output, and whether the process ended in time; others may keep its pipe open longer."""
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
    if code >= 0:
        return ""
    return signal.Signals(-code).name if -code in _NAMED else f"signal {-code}"


_CANDIDATE = "candidate"


def run_candidate(confine: Callable[[], None], reading: int, writing: int) -> None:
    """Read the program from standard input, load it when asked to, and answer calls of its functions."""
    source = read_frame(0) or b""
    confine()
    os.write(writing, b"!")
    module = ModuleType(_CANDIDATE)
    sys.modules[_CANDIDATE] = module

    def load(names: list[str]) -> list[Any]:
        text = source.decode("utf-8", "surrogatepass")  # of bytes a line such as `coding: latin-1` would be believed
        exec(compile(text, "<candidate>", "exec", dont_inherit=True), vars(module))  # noqa: S102 (this process is for that)
        return [_look_up(module, name) for name in names]

    actions: dict[str, Callable[..., Any]] = {
        "load": load,
        "call": lambda function, *arguments, **named: function(*arguments, **named),
        "iterate": iter,
        "advance": lambda iterator: [value for value in [next(iterator, _END)] if value is not _END],
        "length": len,
        "item": lambda value, key: value[key],
        "digest": digest,
        "attribute": getattr,
        "set": setattr,
        "set item": setitem,
        "text": str,
        "shown": repr,
    }
    Peer(reading, writing, actions, keeps_large=True).serve()


_END = object()


def _look_up(module: ModuleType, name: str) -> Any:
    if name not in vars(module):
        raise NameError(f"name {name!r} is not defined")
    return vars(module)[name]


_NO_NEW_PRIVILEGES, _SECCOMP, _FILTER, _DUMPABLE, _ADOPT = 38, 22, 2, 4, 36
_HEAPS = -8
_STACK = 64 * 2**20
_FILE = 64 * 2**20
_SIGNALS = 64
"""Pending signals, among which timers count."""
_NO_CORE = 1
"""No file is so small, and where cores go to a program of the machine, which 0 does not prevent, 1 does (core(5))."""
Limits = list[tuple[int, tuple[int, int]]]
"""Resources, and how much of each is allowed: now, and ever after."""
_LIBRARY = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def forbid_calls(instructions: bytes) -> None:
    """Keep this process and all its children from the system calls that the filter refuses."""
    program = _Program(len(instructions) // 8, instructions)
    _control((_SECCOMP, _FILTER, ctypes.byref(program), 0, 0))


def hide() -> None:
    """Keep this process and its children from being traced, from leaving cores, and from new rights."""
    _control((_DUMPABLE, 0, 0, 0, 0))
    _control((_NO_NEW_PRIVILEGES, 1, 0, 0, 0))


def share_heaps() -> None:
    """Make all threads of this process and its children allocate memory from one heap.

    Else the C library reserves 64 MiB of addresses for each thread, and an allowance of addresses is soon used up.
    """
    with suppress(AttributeError):  # other C libraries have one heap anyway
        _LIBRARY.mallopt(_HEAPS, 1)


def adopt_orphans() -> None:
    """Make every descendant whose parent ends a child of this process, which can then wait for it."""
    _control((_ADOPT, 1, 0, 0, 0))


def stay_on(processors: set[int]) -> None:
    """Run only on these processors, if this is allowed."""
    with suppress(OSError):
        os.sched_setaffinity(0, processors)


def _control(step: tuple[Any, ...]) -> None:
    if _LIBRARY.prctl(*step) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({step[0]}) is refused")


def confine(kept: int, limits: Limits) -> Callable[[], None]:
    """Return what closes all descriptors but the first `kept` from 3 on, and limits this process."""

    def now() -> None:
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        os.closerange(3 + kept, 2**20)
        limit(limits)

    return now


def limits_of(task: dict[str, Any]) -> Limits:
    """Return the limits of resources for a process of a task, none above what this process may have itself."""
    seconds = int(4 * task["seconds"]) + 2
    wanted = [
        (resource.RLIMIT_NPROC, task["processes"]),
        (resource.RLIMIT_CPU, seconds),
        (resource.RLIMIT_FSIZE, _FILE),
        (resource.RLIMIT_STACK, _STACK),
        (resource.RLIMIT_CORE, _NO_CORE),
        (resource.RLIMIT_NOFILE, task["files"]),
        (resource.RLIMIT_SIGPENDING, _SIGNALS),
        *([(resource.RLIMIT_AS, task["memory"])] if task["memory"] else []),
    ]
    limits: Limits = []
    for what, most in wanted:
        ceiling = resource.getrlimit(what)[1]
        allowed = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
        limits.append((what, (allowed, allowed)))
    return limits


def limit(limits: Limits) -> None:
    """Limit this process's resources for good."""
    for what, most in limits:
        resource.setrlimit(what, most)
