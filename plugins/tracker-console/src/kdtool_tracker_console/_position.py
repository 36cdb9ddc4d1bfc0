"""Position of a run among its stages, and the time left as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic

import kdtool

from kdtool_tracker_console._words import roughly

__all__ = ["Position"]


@dataclass
class _Running:
    """A stage that has begun: its number of units if it is known, how many are done, and how many a second."""

    total: int | None
    begun: float
    done: int = 0
    speed: float = 0.0
    first: tuple[int, float] | None = None
    """Units that were done at the first report, and its time: a resumed stage does not begin at 0."""

    def whole(self) -> float | None:
        """Return the seconds that all of it takes at its speed."""
        return self.total / self.speed if self.total and self.speed > 0 else None

    def rest(self) -> float | None:
        """Return the seconds that are left at its speed."""
        return (self.total - self.done) / self.speed if self.total and self.speed > 0 else None


class Position:
    """Counts stages, and expects each to take as long as the last one like it: with another seed, arm or model.

    Until a first one is done, the speed of a running stage is used for those like it. An executor makes stages side by side:
    as many as run now are expected to run together until the end.
    """

    def __init__(self, stages: Sequence[kdtool.StageRecord] = (), clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stages = [stage.name for stage in stages]
        self._ended = {stage.name for stage in stages if stage.reused}
        self._measured = {_like(stage.name): stage.seconds for stage in stages if stage.reused}
        self._running = dict[str, _Running]()

    def start(self, name: str, total: int | None) -> None:
        """Record that a stage begins; `total` is its number of units, or None."""
        self._running[name] = _Running(total, self._clock())

    def advance(self, name: str, done: int) -> None:
        """Record how many units of a stage are done; one that does not run is ignored."""
        stage, now = self._running.get(name), self._clock()
        if stage is None:
            return
        stage.done = done
        stage.first = stage.first or (done, now)
        if now > stage.first[1]:
            stage.speed = (done - stage.first[0]) / (now - stage.first[1])

    def step(self, name: str, report: kdtool.StepReport) -> None:
        """Record a logged training step; that of a stage that does not run is ignored."""
        stage = self._running.get(name)
        if stage is not None:
            stage.total, stage.done = report.steps, report.step
            stage.speed = report.step / report.seconds if report.seconds > 0 else 0.0

    def end(self, name: str, seconds: float | None) -> None:
        """Record how many seconds a finished stage took; None if it was reused."""
        self._running.pop(name, None)
        self._ended.add(name)
        if seconds is not None:
            self._measured[_like(name)] = seconds

    def describe(self, name: str) -> str:
        """Return "stage 5 of 16, about 12 min left", with the time as far as it is known; "" before stages are known."""
        if name not in self._stages:
            return ""
        expected = [self._remaining_time(stage) for stage in self._stages if stage not in self._ended]
        known = sum(filter(None, expected)) / max(1, len(self._running))
        word = "at least" if None in expected else "about"
        left = f", {word} {roughly(known)} left" if known else ""
        return f"stage {self._stages.index(name) + 1} of {len(self._stages)}{left}"

    def _remaining_time(self, name: str) -> float | None:
        """Return the seconds that a stage still takes, or None."""
        stage, measured = self._running.get(name), self._measured.get(_like(name))
        if stage is None:
            alike = (each.whole() for other, each in self._running.items() if _like(other) == _like(name))
            return measured if measured is not None else next(filter(None, alike), None)
        rest = stage.rest()
        if rest is None and measured is not None:
            rest = measured - (self._clock() - stage.begun)
        return None if rest is None else max(0.0, rest)


def _like(name: str) -> str:
    """Return what a stage has in common with those that take about as long: its kind and its phase or evaluator."""
    kind, _, label = name.partition("/")
    if kind == "phases":
        return re.sub(r".*-seed\d+-", "phases/", label)
    return f"scores/{re.split(r'-(?=teacher|student|control)', label)[0]}" if kind == "scores" else kind
