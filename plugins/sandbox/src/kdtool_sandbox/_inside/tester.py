"""The process that runs the tests. It alone holds the pipe for the verdict, and runs nothing of the program under test."""

from __future__ import annotations

import os
from collections.abc import Callable
from types import CodeType
from typing import Any

from kdtool_sandbox._inside.frames import read_message, write_message
from kdtool_sandbox._inside.peer import Gone, Peer, Raised, described

__all__ = ["BEGUN", "judge"]

BEGUN = b"!"
"""What goes through the verdict's pipe when the tests were read: time runs from here."""
_TAIL = 2000
_END = object()
_ACTIONS: dict[str, Callable[..., Any]] = {
    "call": lambda function, *arguments, **named: function(*arguments, **named),
    "iterate": iter,
    "advance": lambda iterator: [value for value in [next(iterator, _END)] if value is not _END],
}
"""What a program may do with objects of the tests. Attributes are not among it: they lead to the tests' globals."""


def judge(confine: Callable[[], None], reading: int, writing: int, verdict: int) -> None:
    """Read the tests from standard input, run them against the candidate, and write the verdict."""
    if os.read(reading, 1) != b"!":  # only now has the candidate taken its part off the same stream
        return
    task = read_message(0)
    confine()
    os.write(verdict, BEGUN)
    write_message(verdict, _judged(Peer(reading, writing, _ACTIONS), task))


def _judged(peer: Peer, task: dict[str, Any]) -> dict[str, str]:
    try:
        helpers, tests = (compile(task[part], f"<{part}>", "exec") for part in ("helpers", "tests"))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        return {"status": "refused", "reason": f"the tests do not parse: {type(error).__name__}: {error}"}
    try:
        _run(peer, helpers, tests, task["names"])
    except Gone:
        return {"status": "failed", "reason": "the program ended while it was tested"}
    except BaseException as error:
        name = "" if isinstance(error, Raised) else f"{type(error).__name__}: "
        return {"status": "failed", "reason": (name + described(error))[:_TAIL], "stderr": _traced(error)}
    return {"status": "passed", "reason": ""}


def _run(peer: Peer, helpers: CodeType, tests: CodeType, names: list[str]) -> None:
    namespace: dict[str, Any] = {"__name__": "tests"}
    exec(helpers, namespace)  # noqa: S102 (the data set's own code)
    peer.ask("load")
    for name in names:
        namespace[name] = peer.ask("name", name)
    exec(tests, namespace)  # noqa: S102 (the data set's own code)


def _traced(error: BaseException) -> str:
    """Return where an exception came from; the module traceback is dear to load."""
    lines, place = [], error.__traceback__
    while place:
        code = place.tb_frame.f_code
        lines.append(f"{code.co_filename}, line {place.tb_lineno}, in {code.co_name}\n")
        place = place.tb_next
    return "".join(line for line in lines if line.startswith("<"))[-_TAIL:]
