"""Stop signals while servers fail: a trainer notes the first one until its step ends, which may be late."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["stop_signals_end"]

_STOPS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def stop_signals_end(is_stalled: Callable[[], bool]) -> Iterator[None]:
    """Have the first stop signal end the block if `is_stalled()`, as the second one does.

    A handler that only notes a signal, and restores the one before it, is followed by that one. Only the main thread has
    handlers; elsewhere nothing changes.
    """
    before = {number: signal.getsignal(number) for number in _STOPS}

    def stop(number: int, frame: Any) -> None:
        first = before[signal.Signals(number)]
        if callable(first):
            first(number, frame)
        if is_stalled() and signal.getsignal(number) is not stop:
            signal.raise_signal(number)

    replaced = []
    if threading.current_thread() is threading.main_thread():
        replaced = [number for number in _STOPS if callable(before[number])]
    for number in replaced:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in replaced:
            if signal.getsignal(number) is stop:
                signal.signal(number, before[number])
