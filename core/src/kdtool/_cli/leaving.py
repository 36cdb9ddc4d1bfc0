"""How the process is stopped and how it ends: Ctrl-C, and the stop signals that clusters send."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

__all__ = ["INTERRUPTED", "Stopped", "leave", "stoppable"]

INTERRUPTED = 130
_STOPS = ("SIGTERM", "SIGBREAK")


class Stopped(KeyboardInterrupt):
    """A signal asked the process to stop: handled as Ctrl-C is, by those who know that and those who do not."""


def stoppable() -> None:
    """Let stop signals interrupt the process as Ctrl-C does; one that is being ignored stays so."""
    _answer(_STOPS, _stop)


def leave(code: int) -> NoReturn:
    """End the process. A signal no longer interrupts: it ends the process at once, with the same code."""
    _answer(("SIGINT", *_STOPS), lambda *_: os._exit(code))
    sys.exit(code)


def _answer(names: tuple[str, ...], handler: Callable[[int, FrameType | None], object]) -> None:
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) not in {signal.SIG_IGN, None}:
            signal.signal(number, handler)


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)
