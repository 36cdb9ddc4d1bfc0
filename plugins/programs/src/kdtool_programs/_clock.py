"""The time that a task is charged with: time on the clock, minus the time for which it waited for a processor.

On an idle machine nothing is subtracted. On a busy one each task gets as much processor time as elsewhere, and takes longer.
All processor time counts: of the tests, of the program and of the processes that it starts. Only the time for which tests
and program wait is subtracted, or a program could sleep while its children wait. Compilers are different: their children do
the work.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from kdtool_programs._processes import times_of

__all__ = ["OF_PROCESSOR", "WAITING", "Clock", "Limit"]

WAITING = 10
"""Times its limit after which a task is ended, however long it waited for a processor."""
OF_PROCESSOR = " of processor time"


@dataclass(frozen=True)
class Limit:
    """Time of a module or of a step: `seconds` on this machine, on each of `processors`; `reason` if it takes longer.

    `starts_others`: waiting of the processes that it starts is subtracted, too.
    """

    seconds: float
    processors: int
    reason: str
    starts_others: bool


class Clock:
    """Measures one module or step, starting now; `process` runs its sandbox."""

    def __init__(self, limit: Limit, process: int) -> None:
        self._limit = limit
        self._process = process
        self._since = time.monotonic()
        before = times_of(process)
        self._lasting = {times.process for times in before.values()}
        self._before_ran = sum(times.ran for times in before.values())
        self._before_waited = sum(times.waited for times in before.values())
        self._used = before
        self.processor = self.wall = 0.0

    def look(self) -> str:
        """Return why the time is over, or "" if it is not; `processor` and `wall` are the seconds until now.

        A thread that has ended counts as it was seen last.
        """
        self.wall = time.monotonic() - self._since
        self._used |= times_of(self._process)
        self.processor = sum(times.ran for times in self._used.values()) - self._before_ran
        charged = max(self.processor / self._limit.processors, self.wall - self._sum_waiting())
        if charged <= self._limit.seconds:
            return ""
        return self._limit.reason + (OF_PROCESSOR if self.processor > charged / 2 else "")

    def _sum_waiting(self) -> float:
        started = {times.process for times in self._used.values()} - self._lasting
        program = min(started, default=0)  # the first process of the task; it starts the others
        ignored = set() if self._limit.starts_others else started - {program}
        waited = sum(times.waited for times in self._used.values() if times.process not in ignored)
        return waited - self._before_waited
