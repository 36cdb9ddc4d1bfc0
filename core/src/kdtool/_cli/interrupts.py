"""Signals that stop the process: Ctrl-C, and those that clusters send."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any, NoReturn

from kdtool._text.names import TRACKER_THREAD

INTERRUPTED = 130
"""The exit code of a process that was stopped."""
_STOPS = ("SIGTERM", "SIGBREAK")
_codes: list[int] = []
"""The code of `exit_with`, once it was called."""


def interrupt_on_stop_signals() -> None:
    """Have stop signals raise KeyboardInterrupt with their name, as Ctrl-C does without; an ignored one stays ignored.

    The interpreter resets handlers while it ends. Signals are ignored from then on, and do not change the exit code.
    """

    def interrupt(number: int, _: Any) -> None:
        raise KeyboardInterrupt(signal.Signals(number).name)

    _handle(_STOPS, interrupt)
    atexit.register(_end_if_interrupted)  # what is registered first is called last
    atexit.register(_handle, ("SIGINT", *_STOPS), signal.SIG_IGN)


def exit_with(code: int) -> NoReturn:
    """End the process. A signal no longer interrupts: it ends the process at once, with the same code."""
    _handle(("SIGINT", *_STOPS), lambda *_: os._exit(code))
    _codes.append(code)
    hanging = [thread for thread in threading.enumerate() if thread.name.startswith(TRACKER_THREAD)]
    if hanging:  # and so may what their libraries do when Python ends
        _end_at_once(code)
    sys.exit(code)


def _end_if_interrupted() -> None:
    """End with the code of an interruption: `python -m` ends by SIGINT if Ctrl-C came while `exec` ran a text."""
    if INTERRUPTED in _codes:
        _end_at_once(INTERRUPTED)


def _end_at_once(code: int) -> NoReturn:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(code)


def _handle(names: tuple[str, ...], handler: Callable[[int, Any], object] | signal.Handlers) -> None:
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            signal.signal(number, handler)
