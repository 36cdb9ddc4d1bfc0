"""Tasks that wait for a worker, and running tasks."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kdtool_programs._task import Task

__all__ = ["Queue", "Running"]


@dataclass
class Running:
    """A running task."""

    task: Task
    again: bool = False
    """A worker that ended had begun it."""
    disturbed: bool = False
    """Others used up the pipes meanwhile."""
    alone: bool = False
    """It is tried for the second time, and no other runs."""


class Queue:
    """Tasks to start: those whose worker ended, then new ones, and at the end those to run with no other, one by one."""

    def __init__(self, tasks: Iterable[Task]) -> None:
        self._new = (Running(task) for task in tasks)
        self.again: list[Running] = []
        self.alone: list[Running] = []

    def take(self, others: bool) -> Running | None:
        """Return the next task, None if there is none to start; `others`: some are running."""
        running = self.again.pop() if self.again else next(self._new, None)
        return self.alone.pop() if running is None and self.alone and not others else running
