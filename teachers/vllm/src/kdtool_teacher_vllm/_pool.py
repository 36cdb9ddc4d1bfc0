"""Prompts shared among servers: each takes the next one when it is free, and those of a failed server go to the others."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from random import random
from threading import Condition, Thread
from typing import Generic, TypeVar

import kdtool
from torch import Tensor

from kdtool_teacher_vllm._station import LostError, Station

T = TypeVar("T")
_FIRST_PAUSE, _LONGEST_PAUSE = 0.25, 15.0


class Pool:
    """Servers of one model.

    Args:
        stations: the servers.
        check: called with a server before its first prompt, and again after it failed; it raises a UsageError for a server
            of another model.
        slots: prompts under way at each server.
        patience: seconds without any answer before it gives up.
        say: shows a line to the user.
    """

    def __init__(
        self,
        stations: Sequence[Station],
        check: Callable[[Station], None],
        slots: int,
        patience: float,
        say: Callable[[str], None],
    ) -> None:
        self.stations = stations
        self._check = check
        self._slots = slots
        self._patience = patience
        self._say = say
        self._down: set[str] = set()
        self._seconds = 0.0

    def ask(self, prompts: Sequence[T], ask: Callable[[Station, T], Tensor]) -> list[Tensor]:
        """Return the answer to each prompt, in order; each comes from one server, once.

        Raises:
            ServiceError: no server answered for `patience` seconds.
            UsageError: a server serves another model, or refuses a prompt.
        """
        began = time.monotonic()
        job = _Job(prompts, ask)
        try:
            for station in [*self.stations] * min(self._slots, len(prompts)):
                # As daemons: the end of the program does not wait for a server that does not answer.
                Thread(target=self._work, args=(job, station), name="vllm", daemon=True).start()
            return job.wait(self._patience, lambda: max(station.answered for station in self.stations))
        finally:
            job.stop()
            self._seconds += time.monotonic() - began

    def close(self) -> None:
        """Close the connections."""
        for station in self.stations:
            station.close()

    def summary(self) -> str:
        """Return the throughput so far, with the share of each server."""
        tokens = sum(station.tokens for station in self.stations)
        size = sum(station.bytes for station in self.stations)
        text = f"{tokens:,} tokens, {tokens / max(self._seconds, 1e-9):,.0f} tokens/s, {size / 1e6:,.1f} MB"
        if len(self.stations) > 1 and tokens:
            text += "; " + ", ".join(f"{one.url} {one.tokens / tokens:.0%}" for one in self.stations)
        return text

    def _work(self, job: _Job[T], station: Station) -> None:
        """Answer prompts by one server until all are answered."""
        pause = _FIRST_PAUSE
        while (number := job.next()) is not None:
            try:
                with station.lock:
                    if not station.checked:
                        self._check(station)
                        station.checked = True
                answer = job.ask(station, job.prompts[number])
            except (kdtool.ServiceError, LostError) as error:
                job.report(number, error)
                station.checked = False
                self._note(station, str(error))
                job.pause(pause * (0.5 + random()))
                pause = min(2 * pause, _LONGEST_PAUSE)
            except BaseException as error:  # reaches the caller, which waits
                job.report(number, error, final=True)
            else:
                job.report(number, answer)
                self._note(station, "")
                pause = _FIRST_PAUSE

    def _note(self, station: Station, problem: str) -> None:
        """Show when a server fails, and when it is back."""
        if problem and station.url not in self._down:
            self._down.add(station.url)
            self._say(f"teacher: {station.url} fails, its prompts go to others or wait: {problem}")
        elif not problem and station.url in self._down:
            self._down.discard(station.url)
            self._say(f"teacher: {station.url} answers again")


class _Job(Generic[T]):
    """Prompts and the answers that were found. A number is in the queue, with one worker, or found."""

    def __init__(self, prompts: Sequence[T], ask: Callable[[Station, T], Tensor]) -> None:
        self.prompts, self.ask = prompts, ask
        self._queue = deque(range(len(prompts)))
        self._found: dict[int, Tensor] = {}
        self._changed = Condition()
        self._failure: BaseException | None = None
        self._last_error: BaseException | None = None
        self._stopped = False
        self._began = time.monotonic()

    def next(self) -> int | None:
        """Return the number of a prompt to send; None when nothing is left. Waits while others may give one back."""
        with self._changed:
            while not (self._queue or self._is_over()):
                self._changed.wait()
            return None if self._is_over() else self._queue.popleft()

    def report(self, number: int, outcome: Tensor | BaseException, *, final: bool = False) -> None:
        """Keep an answer; after an error let another worker send the prompt, or, if it is `final`, end the job."""
        with self._changed:
            if isinstance(outcome, Tensor):
                self._found[number], self._last_error = outcome, None
            elif final:
                self._failure = self._failure or outcome
            else:
                self._queue.appendleft(number)
                self._last_error = outcome
            self._changed.notify_all()

    def pause(self, seconds: float) -> None:
        """Wait, unless the job ends before."""
        with self._changed:
            self._changed.wait_for(self._is_over, seconds)

    def stop(self) -> None:
        """End the job."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def wait(self, patience: float, last_answer: Callable[[], float]) -> list[Tensor]:
        """Return what was found, in order; `last_answer` is the time of the servers' last, perhaps to a comparison."""
        with self._changed:
            while not self._is_over():
                self._changed.wait(1.0)
                silent = time.monotonic() - max(self._began, last_answer())
                if self._last_error is not None and silent > patience:
                    raise kdtool.ServiceError(
                        f"no server answered for {patience:g} s, the last said: {self._last_error}; start one, and "
                        "run the same command again"
                    )
            if self._failure is not None:
                raise self._failure
            return [self._found[number] for number in range(len(self.prompts))]

    def _is_over(self) -> bool:
        return self._stopped or self._failure is not None or len(self._found) == len(self.prompts)
