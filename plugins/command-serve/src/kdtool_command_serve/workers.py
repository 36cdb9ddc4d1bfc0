"""Threads that work for the event loop, and do not keep the process alive."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import traceback
from collections.abc import Callable

__all__ = ["Workers", "call_loop"]


class Workers:
    """Daemon threads that run functions in the order of `submit`.

    The same few threads run all of them, because torch and OpenMP keep memory for each thread that ever computed.
    """

    def __init__(self, name: str, count: int) -> None:
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._run, name=f"kdtool-serve {name} {number}", daemon=True)
            for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], None]) -> None:
        """Run `task` when a thread is free; its exceptions are printed."""
        self._tasks.put(task)

    def stop(self) -> None:
        """Let the threads end when they have finished the submitted tasks."""
        for _ in self._threads:
            self._tasks.put(None)

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            try:
                task()
            except Exception:
                traceback.print_exc()  # the thread goes on: others wait for it
            del task  # frees the request's memory while the thread waits


def call_loop(loop: asyncio.AbstractEventLoop, function: Callable[..., object], *arguments: object) -> None:
    """Call a function in the loop's thread; nothing happens after the loop has ended."""
    with contextlib.suppress(RuntimeError):
        loop.call_soon_threadsafe(function, *arguments)
