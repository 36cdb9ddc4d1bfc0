"""The events of a run: hook calls that go into its log and to its trackers, each of which works in its own thread."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

from kdtool._contract.run_info import Owner, RunInfo
from kdtool._errors import cause_of
from kdtool._text.names import TRACKER_THREAD
from kdtool._text.terminal import waiting

LONGEST = 10_000
"""Events that may wait for a tracker. Progress is dropped where half as many wait."""
PATIENCE = 30.0
"""Seconds that all trackers together have, from the end of the run until they are closed."""
SHORT_PATIENCE = 5.0
"""The same if the run was interrupted, and for a tracker that was switched off before."""


class Log(Protocol):
    """The log of a run's events."""

    def write(self, hook: str, values: Mapping[str, Any]) -> None:
        """Write an event, a hook with its arguments; raises nothing."""

    def close(self) -> None:
        """Close the file."""


class TrackerThread:
    """Calls the hooks of one tracker in a daemon thread, in order, so that no caller waits for it.

    A tracker with too many waiting events, that does not finish at the end of the run, or ends its thread is switched off:
    waiting events are dropped, and the user gets one line. `events.jsonl` has all of them.
    """

    def __init__(self, owner: Owner, complain: Callable[[str], None]) -> None:
        self._owner = owner
        self._complain = complain
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._deadline: float | None = None
        self._is_off = False

    def put(self, hook: str, call: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Have the thread call a hook, and return at once."""
        if self._is_off or os.getpid() != self._process:  # a forked worker has no thread
            return
        queued = self._calls.qsize()
        if queued < (LONGEST // 2 if hook == "kdtool_progress" else LONGEST):
            self._put(partial(self._call, call, *args, **kwargs))
        elif hook != "kdtool_progress":
            self._switch_off(f"has {queued:,} unprocessed events")
            self._calls = SimpleQueue()  # frees the events while the thread is in a call

    def finish(self, deadline: float) -> None:
        """Wait until the tracker has all events, or until `deadline`, a time of `time.monotonic`; close it by then, too."""
        self._deadline = deadline
        if self._thread is None or self._is_off or os.getpid() != self._process:
            return
        done = threading.Event()
        self._put(done.set)
        if not done.wait(min(1.0, deadline - time.monotonic())):
            with waiting(f"waiting for {self._owner.name} …"):
                if not done.wait(max(0.0, deadline - time.monotonic())):
                    self._switch_off("did not finish in time")

    def close(self, close: Callable[[], object]) -> None:
        """Close the tracker in its thread, and end the thread; one that hangs ends with the process."""
        if os.getpid() != self._process:
            return
        thread, now = self._put(close), time.monotonic()
        self._put(None)
        deadline = now + PATIENCE if self._deadline is None else self._deadline
        thread.join(max(0.0, (min(deadline, now + SHORT_PATIENCE) if self._is_off else deadline) - now))
        if thread.is_alive():
            self._switch_off("did not close in time")

    def _put(self, call: Callable[[], object] | None) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=TRACKER_THREAD + self._owner.name, daemon=True)
            self._thread.start()
        self._calls.put(call)
        return self._thread

    def _call(self, call: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        if not self._is_off:
            call(*args, **kwargs)

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # anything else was reported where it was raised
                self._switch_off(f"ended its thread: {cause_of(error)}")

    def _switch_off(self, why: str) -> None:
        if not self._is_off:
            self._is_off = True
            self._complain(f"{self._owner} {why}; disabled for the rest of this run; events.jsonl has its events")


class Events:
    """Events of one assembly: `threads` of trackers by name, and the log during a run."""

    def __init__(self, threads: Mapping[str, TrackerThread]) -> None:
        self.threads = threads
        self._run: RunInfo | None = None
        self._log: Log | None = None

    def begin(self, run: RunInfo, log: Log) -> None:
        """Log the events from now on to the end of the run. Trackers show it from here on."""
        self._run, self._log = run, log

    def record(self, hook: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Log an event, and return the arguments for trackers: `run` with the time and the folder of the whole run.

        They hold no references to models and rows of a stage, so that a slow tracker does not keep these alive.
        """
        run = values["run"]
        whole = self._run or run
        run = replace(run, folder=whole.folder, hook=whole.hook, texts=whole.texts, time=round(time.time(), 3))
        values = {**values, "run": run}
        if self._log:
            self._log.write(hook, values)
            if hook == "kdtool_run_end":
                self._log.close()
                self._log = None
        return values

    def finish(self, *, interrupted: bool = False) -> None:
        """Wait for the trackers at the end of a run."""
        deadline = time.monotonic() + (SHORT_PATIENCE if interrupted else PATIENCE)
        for thread in self.threads.values():
            thread.finish(deadline)
