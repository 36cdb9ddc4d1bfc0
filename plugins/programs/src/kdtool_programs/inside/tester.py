"""The tester of one worker: the first process of its sandbox. It takes tasks off standard input, one after the other.

Only it runs tests, within a time limit, and gives verdicts. Only the dataset's code runs in it, and nothing of a program
under test: each candidate is started by the keeper, takes its program off the stream itself, and answers questions.

Before it starts the keeper it runs a program as models write it. A forked process copies each page of memory that it is the
first to write to. Using the compiler once sets up its data here, and not in every candidate: that saves a third of a
candidate's copies.
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
from collections.abc import Callable
from types import CodeType
from typing import Any

from kdtool_programs.inside.keeper import DESCRIPTOR_BYTES, forbid_calls, hide, keep, share_heaps, stay_on
from kdtool_programs.inside.messages import Raised, describe, encode_json, read_message, write_message
from kdtool_programs.inside.peer import Gone, Peer, TimedOut

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
    sys.path.append(greeting["packages"])
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
            has_left_traces = verdict.get("retire", False) or self._state() != self._untouched
            verdict["retire"] = has_left_traces or _peak_memory() > self._largest
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


_TAIL = 2000
_AGAIN = 0.1
"""Seconds until tests that caught `TimedOut` are interrupted again."""
_END = object()
_SHOWN = "<object of the tests>"
"""Text of the tests' objects for programs: their real text might reveal the expected result."""


def _call(function: Any, *arguments: Any, **named: Any) -> Any:
    if getattr(builtins, getattr(function, "__name__", ""), None) is function:
        raise TypeError("call builtins on your own side")  # here they may take for ever, ignoring alarms
    return function(*arguments, **named)


def _item(value: Any, key: Any) -> Any:
    if isinstance(value, type):
        raise TypeError("types of the tests have no items for programs")  # list[int] would be a way to call list
    return value[key]


def _hidden(*_: object) -> None:
    raise AttributeError("attributes of the tests' objects are not shown to programs")


_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": _call,
    "iterate": iter,
    "advance": lambda iterator: [value for value in [next(iterator, _END)] if value is not _END],
    "length": len,
    "item": _item,
    "attribute": _hidden,
    "set": _hidden,
    "text": lambda _: _SHOWN,
    "shown": lambda _: _SHOWN,
}
"""Actions that a program may ask for on the tests' objects. No attributes: they lead to the tests' globals."""
_NEVER = float("inf")
_deadline = _NEVER


def hear_alarms() -> None:
    """Let alarms end tests after their deadline; earlier alarms, which a program may send, do nothing."""
    signal.signal(signal.SIGALRM, _ring)


def run_trial(reading: int, writing: int, task: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    """Run a task's tests against the candidate at the other ends of two pipes, and return the verdict."""
    global _deadline
    namespace: dict[str, Any] = {"__name__": "tests", "__builtins__": vars(builtins).copy()}
    since, seconds = time.monotonic(), limits["clock"]
    verdict: dict[str, Any] = {"status": "timed out", "reason": limits["late"], "late": True}
    try:
        _deadline = since + seconds
        signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
        judged = _judge(Peer(reading, writing, _ACTIONS), task, namespace)
        namespace.clear()
        if time.monotonic() < since + seconds:
            verdict = judged
    except TimedOut:
        pass
    finally:
        _deadline = _NEVER
        signal.setitimer(signal.ITIMER_REAL, 0)
    return {**verdict, "wall_seconds": time.monotonic() - since}


def _ring(*_: object) -> None:
    global _deadline
    now = time.monotonic()
    if now >= _deadline:
        _deadline = now + _AGAIN  # a flood of alarms does not interrupt more often
        raise TimedOut


def _judge(peer: Peer, task: dict[str, Any], namespace: dict[str, Any]) -> dict[str, str]:
    try:
        helpers, tests = (compile(task[part], f"<{part}>", "exec", dont_inherit=True) for part in ("helpers", "tests"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"status": "refused", "reason": f"the tests do not parse: {type(error).__name__}: {error}"}
    try:
        _run_tests(peer, helpers, tests, task["names"], namespace)
        if peer.gone:  # the tests have caught it
            raise Gone
    except TimedOut:
        raise
    except Gone:
        return {"status": "failed", "reason": "the program ended while it was tested"}
    except BaseException as error:
        kind = error.kind if isinstance(error, Raised) else type(error).__name__
        reason = f"{kind}: {describe(error)}" if kind else describe(error)
        return {"status": "failed", "reason": reason[:_TAIL], "stderr": _format_traceback(error)}
    return {"status": "passed", "reason": ""}


def _run_tests(peer: Peer, helpers: CodeType, tests: CodeType, names: list[str], namespace: dict[str, Any]) -> None:
    exec(helpers, namespace)  # noqa: S102 (the data set's own code)
    namespace.update(zip(names, peer.ask("load", names), strict=True))
    exec(tests, namespace)  # noqa: S102 (the data set's own code)


def _format_traceback(error: BaseException) -> str:
    """Return where an exception came from; loading the module traceback is expensive."""
    lines, entry = [], error.__traceback__
    while entry:
        code = entry.tb_frame.f_code
        lines.append(f"{code.co_filename}, line {entry.tb_lineno}, in {code.co_name}\n")
        entry = entry.tb_next
    return "".join(line for line in lines if line.startswith("<"))[-_TAIL:]


_REHEARSED_PROGRAM = '''
import math
from typing import Dict, List, Optional


class Counter:
    total: int = 0

    def add(self, value=None):
        self.total += 1 if value is None else value


def closest(numbers: List[float], threshold: float = 0.5) -> Optional[float]:
    """Return the first number that is close to another.

    >>> closest([1.0, 2.0, 2.25])
    2.0
    """
    counts: Dict[str, int] = {key: at for at, key in enumerate("ab") if at % 2 == 0}
    for at, number in enumerate(numbers):
        for other in numbers[at + 1 :]:
            if abs(number - other) < threshold and not math.isnan(other):
                return number
    try:
        counts["b"] -= sum(x * x for x in range(3))
    except KeyError:
        pass
    while len(counts) < 2:
        counts[f"{threshold:.2f}"] = max(1, -1)
    return None if sorted(counts, key=lambda key: -len(key))[::-1] else threshold


closest([1.0, 5.0])
Counter().add()
'''


def rehearse() -> None:
    """Compile and run it."""
    code = compile(_REHEARSED_PROGRAM, "<rehearsal>", "exec", dont_inherit=True)
    exec(code, {"__name__": "rehearsal"})  # noqa: S102 (our own)
