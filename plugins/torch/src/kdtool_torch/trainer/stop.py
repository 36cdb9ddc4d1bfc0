"""Stop signals that wait for the end of a step, so that a checkpoint can hold it."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from typing import Any, Self

_STOPS = ("SIGINT", "SIGTERM", "SIGBREAK")
_NOTE = b"\nStopping after this step, with a checkpoint. Another signal stops at once.\n"


class StopSignal:
    """Defers stop signals within its block, and delivers one that is left at its end. `number` is 0 until one arrives."""

    def __init__(self) -> None:
        self.number = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        """Record the next stop signal. An ignored one stays ignored; only the main thread can have handlers."""
        if threading.current_thread() is not threading.main_thread():
            return self
        for number in (getattr(signal, name) for name in _STOPS if hasattr(signal, name)):
            if signal.getsignal(number) not in {signal.SIG_IGN, None}:
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        """Deliver a signal that is left, unless the block failed."""
        self.restore() if failed else self.deliver()

    def restore(self) -> None:
        """Restore the handlers that were there before."""
        while self._before:
            signal.signal(*self._before.popitem())

    def deliver(self) -> None:
        """Have the noted signal do now what it does elsewhere."""
        self.restore()
        if self.number:
            number, self.number = self.number, 0
            signal.raise_signal(number)

    def _note(self, number: int, _: Any) -> None:
        self.number = number
        self.restore()  # the next one stops at once
        with suppress(OSError):
            os.write(2, _NOTE)  # a stream may be in the middle of a write
