"""Shared parts of both fuzz tests: number of mutants, time limit, and the command line in this process."""

from __future__ import annotations

import contextlib
import io
import os
import signal
from collections.abc import Iterator

from hypothesis import HealthCheck, settings
from kdtool._cli import call

FULL = os.environ.get("KDTOOL_FUZZ") == "full"
SECONDS = 5
QUICK = settings(
    deadline=None,
    derandomize=not FULL,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@contextlib.contextmanager
def at_most(seconds: int = SECONDS) -> Iterator[None]:
    """Fail where the block computes for longer, or waits for a minute: a busy machine is no hang."""
    if not hasattr(signal, "SIGPROF"):
        yield
        return

    def late(*_: object) -> None:
        raise AssertionError(f"it takes longer than {seconds} s")

    timers = ((signal.SIGPROF, signal.ITIMER_PROF, seconds), (signal.SIGALRM, signal.ITIMER_REAL, 60))
    previous = [signal.signal(number, late) for number, _, _ in timers]
    for _, timer, limit in timers:
        signal.setitimer(timer, limit)
    try:
        yield
    finally:
        for (number, timer, _), handler in zip(timers, previous, strict=True):
            signal.setitimer(timer, 0)
            signal.signal(number, handler)


def say(*arguments: str) -> tuple[int, str]:
    """Run one command; return its exit code and what it said on standard error. A traceback, or our own fault, fails."""
    errors = io.StringIO()
    with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()), at_most():
        code = call(list(arguments))
    said = errors.getvalue()
    assert "Traceback" not in said, said
    assert "kdtool failed" not in said, said
    assert "it takes longer than" not in said, said
    assert code == 0 or "rror: " in said, said
    return code, said
