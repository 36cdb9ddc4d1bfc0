"""How the process is stopped and how it ends: Ctrl-C, a cluster's stop signal, and threads that plugins left running.

`stoppable` makes a stop signal the same as Ctrl-C. `note_strays` keeps away tracebacks of what stops nothing. `leave` ends
the process with an exit code, also where a plugin's thread would keep it alive for ever.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import NoReturn

import click

__all__ = ["INTERRUPTED", "Stopped", "leave", "note_strays", "stoppable"]

INTERRUPTED = 130
_PATIENCE = 5.0
_STOPS = ("SIGTERM", "SIGBREAK")


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop: handled as Ctrl-C is, by those who know that and those who do not."""


def stoppable() -> None:
    """Let stop signals interrupt the process as Ctrl-C does; one that is being ignored stays so."""
    for name in _STOPS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, _stop)
    atexit.register(_be_deaf)  # registered first, so it runs last


def note_strays() -> None:
    """Say in a line what Python would show as a traceback, though it stops nothing: errors in threads and in `__del__`."""
    threading.excepthook = lambda args: _note(args.exc_value, f"in the thread {getattr(args.thread, 'name', '')!r}")
    sys.unraisablehook = lambda args: _note(args.exc_value, f"in {getattr(args.object, '__qualname__', 'cleaning up')}")


def leave(code: int) -> NoReturn:
    """End the process. From here on Ctrl-C ends it at once; threads that a plugin left running are not waited for long."""
    _answer_signals(lambda *_: os._exit(code))
    end = time.monotonic() + _PATIENCE
    for thread in _left():
        thread.join(max(0.0, end - time.monotonic()))
    if left := _left():
        names = ", ".join(f"{thread.name!r}{_origin(thread)}" for thread in left)
        text = f"not waiting for threads that are still running: {names}; a component ends its threads in kdtool_close"
        click.echo(text, err=True)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


def _answer_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in {signal.SIGINT, *(getattr(signal, name, signal.SIGINT) for name in _STOPS)}:
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            signal.signal(number, handler)


def _be_deaf() -> None:
    """Keep the exit code: while the interpreter is taken down it has no handlers, and a signal would kill the process."""
    _answer_signals(signal.SIG_IGN)


def _note(error: BaseException | None, where: str) -> None:
    with suppress(Exception):  # the interpreter may be on its way out
        from kdtool._errors import cause_of
        from kdtool._plugins.attribution import culprit

        if error is not None and not isinstance(error, SystemExit):
            who = culprit(error) or "kdtool"
            click.echo(f"note: {who} failed {where}, which stops nothing: {cause_of(error)}", err=True)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


def _left() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if not thread.daemon and thread is not threading.main_thread()]


def _origin(thread: threading.Thread) -> str:
    target = getattr(thread, "_target", None)
    module = getattr(target, "__module__", None) or type(thread).__module__
    return f" (of {module})" if module != "threading" else ""
