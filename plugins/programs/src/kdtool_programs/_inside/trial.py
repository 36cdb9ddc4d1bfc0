"""Run the tests of one task against a candidate, within a time limit. Only the dataset's code runs here."""

from __future__ import annotations

import builtins
import signal
import time
from collections.abc import Callable
from types import CodeType
from typing import Any

from kdtool_programs._inside.exceptions import Raised, describe
from kdtool_programs._inside.peer import Gone, Peer, TimedOut

__all__ = ["hear_alarms", "run_trial"]

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
        _run(peer, helpers, tests, task["names"], namespace)
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


def _run(peer: Peer, helpers: CodeType, tests: CodeType, names: list[str], namespace: dict[str, Any]) -> None:
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
