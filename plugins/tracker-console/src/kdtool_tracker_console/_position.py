"""Position of a run among its stages, and the time left as far as it is known."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from time import monotonic

import kdtool

from kdtool_tracker_console._words import roughly

__all__ = ["Position"]


class Position:
    """Counts stages, and expects each to take as long as the last one like it: with another seed, arm or model.

    Until a first one is done, the speed of the running stage is used for those like it.
    """

    def __init__(self, stages: Sequence[kdtool.StageRecord] = (), clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stages = [stage.name for stage in stages]
        self._reused = {stage.name for stage in stages if stage.reused}
        self._measured = {_like(stage.name): stage.seconds for stage in stages if stage.reused}
        self._name = ""
        self._total: int | None = None
        self._first: tuple[int, float] | None = None
        self._begun = self._speed = 0.0
        self._done = 0

    def start(self, name: str, total: int | None) -> None:
        """Record that a stage begins; `total` is its number of units, or None."""
        self._name, self._total, self._begun = name, total, self._clock()
        self._first, self._speed, self._done = None, 0.0, 0

    def advance(self, done: int) -> None:
        """Record how many units of the stage are done; a resumed stage does not begin at 0."""
        self._done, now = done, self._clock()
        self._first = self._first or (done, now)
        if now > self._first[1]:
            self._speed = (done - self._first[0]) / (now - self._first[1])

    def step(self, report: kdtool.StepReport) -> None:
        """Record a logged training step."""
        self._total, self._done = report.steps, report.step
        self._speed = report.step / report.seconds if report.seconds > 0 else 0.0

    def end(self, name: str, seconds: float) -> None:
        """Record how many seconds a finished stage took."""
        self._measured[_like(name)] = seconds

    def describe(self) -> str:
        """Return "stage 5 of 16, about 12 min left", with the time as far as it is known; "" before stages are known."""
        if self._name not in self._stages:
            return ""
        number = self._stages.index(self._name) + 1
        whole: float | None
        rest: float | None
        if self._total and self._speed > 0:
            whole, rest = self._total / self._speed, (self._total - self._done) / self._speed
        else:
            whole = self._measured.get(_like(self._name))
            rest = None if whole is None else whole - (self._clock() - self._begun)
        expected: list[float | None] = [None if rest is None else max(0.0, rest)]
        for later in self._stages[number:]:
            if later not in self._reused:
                alike = whole if _like(later) == _like(self._name) else None
                expected.append(self._measured.get(_like(later), alike))
        known = sum(filter(None, expected))
        word = "at least" if None in expected else "about"
        left = f", {word} {roughly(known)} left" if known else ""
        return f"stage {number} of {len(self._stages)}{left}"


def _like(name: str) -> str:
    """Return what a stage has in common with those that take about as long: its kind and its phase or evaluator."""
    kind, _, label = name.partition("/")
    if kind == "phases":
        return re.sub(r".*-seed\d+-", "phases/", label)
    return f"scores/{re.split(r'-(?=teacher|student|control)', label)[0]}" if kind == "scores" else kind
