"""The events of a run: hook calls that go into its log and to its trackers, each of which works in a thread of its own."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Protocol

from kdtool._contract.run_info import Owner, RunInfo
from kdtool._errors import cause_of
from kdtool._text.names import TRACKER_THREAD

__all__ = ["Events", "TrackerThread"]

LONGEST = 10_000
"""Events that may wait for a tracker. Progress is dropped where half as many wait."""
PATIENCE = 30.0
"""Seconds that a tracker has from the end of the run until it is closed."""
SHORT_PATIENCE = 5.0
"""The same, in seconds, if the run was interrupted or the tracker is switched off already."""


class Log(Protocol):
    """The log of a run's events."""

    def write(self, hook: str, values: Mapping[str, Any]) -> None:
        """Write an event, a hook with its arguments; raises nothing."""

    def close(self) -> None:
        """Close the file."""


class TrackerThread:
    """Calls the hooks of one tracker in a daemon thread, in order, so that no caller waits for it.

    A tracker that is too many events behind, does not finish at the end of the run, or ends its thread is switched off:
    waiting events are dropped, and the user gets one line with the command that sends it the run later.
    """

    def __init__(self, owner: Owner, complain: Callable[[str], None]) -> None:
        self._owner = owner
        self._complain = complain
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._process = os.getpid()
        self._patience = PATIENCE
        self._is_off = False
        self._run: Path | None = None

    def put(self, hook: str, call: Callable[..., object], /, *args: Any, **kwargs: Any) -> None:
        """Have the thread call a hook, and return at once."""
        if self._is_off or os.getpid() != self._process:  # a forked worker has no thread
            return
        if hook == "kdtool_run_start":
            self._run = kwargs["run"].folder
        waiting = self._calls.qsize()
        if waiting < (LONGEST // 2 if hook == "kdtool_progress" else LONGEST):
            self._put(partial(call, *args, **kwargs))
        elif hook != "kdtool_progress":
            self._switch_off(f"is {waiting:,} events behind")

    def finish(self, *, interrupted: bool) -> None:
        """Wait until the tracker has all events, for a limited time."""
        if os.getpid() != self._process:
            return
        if interrupted:
            self._patience = min(self._patience, SHORT_PATIENCE)
        seconds = self._patience
        if self._thread and not self._is_off and not self._wait():
            self._switch_off(f"did not finish in {seconds:g} s")

    def close(self, close: Callable[[], object]) -> None:
        """Close the tracker in its thread, and end the thread; one that hangs is left behind and ends with the process."""
        if os.getpid() != self._process:
            return
        thread = self._put(close)
        self._put(None)
        thread.join(self._patience)
        if thread.is_alive() and not self._is_off:
            self._switch_off("did not close in time")

    def _put(self, call: Callable[[], object] | None) -> threading.Thread:
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name=TRACKER_THREAD + self._owner.name, daemon=True)
            self._thread.start()
        self._calls.put(call)
        return self._thread

    def _work(self) -> None:
        while (call := self._calls.get()) is not None:
            try:
                call()
            except BaseException as error:  # anything else was reported where it was raised
                self._switch_off(f"ended its thread: {cause_of(error)}")

    def _wait(self) -> bool:
        """Return whether all calls are done before the patience ends."""
        done, start = threading.Event(), time.monotonic()
        self._put(done.set)
        try:
            return done.wait(self._patience)
        finally:
            self._patience = max(0.0, self._patience - (time.monotonic() - start))

    def _switch_off(self, why: str) -> None:
        self._is_off = True
        self._calls = SimpleQueue()  # what waited is freed, also while a call hangs
        self._patience = min(self._patience, SHORT_PATIENCE)
        self._complain(f"{self._owner} {why}; disabled for the rest of this run{self._remedy()}")

    def _remedy(self) -> str:
        if self._run is None:
            return ""
        run = self._run.relative_to(Path.cwd()) if self._run.is_relative_to(Path.cwd()) else self._run
        name = self._owner.name.rpartition(".")[2]
        return f"; send it the whole run later: kdtool runs sync {shlex.quote(str(run))} --to {name}"


class Events:
    """The way of events in one assembly: `threads` of trackers by name, and the log while a run is on."""

    def __init__(self, threads: Mapping[str, TrackerThread]) -> None:
        self.threads = threads
        self._run: RunInfo | None = None
        self._log: Log | None = None

    def begin(self, run: RunInfo, log: Log) -> None:
        """Log the events from now on to the end of the run."""
        self._run, self._log = run, log

    def record(self, hook: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """Log an event, and return the arguments for trackers: `run` with the time and the folder of the whole run.

        From there no models and rows of a stage can be reached, so that a tracker that is behind does not keep them.
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
        for thread in self.threads.values():
            thread.finish(interrupted=interrupted)
