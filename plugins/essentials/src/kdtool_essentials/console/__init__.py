"""The tracker `console`: shows a run in the terminal, its position among its stages, and the time left.

A terminal gets live bars, logs and pipes get plain lines.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal

import kdtool

from kdtool_essentials.console.lines import Display, PlainDisplay, roughly, summary

__all__ = ["ConsoleTracker"]


class ConsoleTracker(kdtool.Tracker):
    """Shows stages, progress, loss and messages on standard error: bars in a terminal, plain lines elsewhere."""

    shows_messages = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._chosen: Display | None = None
        self._begin()

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        self._begin()
        self._position = Position(stages)
        self._display.line(f"Run {run.name} in {run.folder}")

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._position.start(run.stage_name, total)
        self._display.place(self._position.describe(run.stage_name))
        self._display.start(run.stage_title, total, unit)

    def kdtool_progress(self, run: kdtool.RunInfo, done: int) -> None:
        self._position.advance(run.stage_name, done)
        self._display.place(self._position.describe(run.stage_name))
        self._display.advance(run.stage_title, done)

    def kdtool_step_end(self, run: kdtool.RunInfo, report: kdtool.StepReport) -> None:
        self._position.step(run.stage_name, report)
        self._display.place(self._position.describe(run.stage_name))
        self._display.step(run.stage_title, report)

    def kdtool_message(self, run: kdtool.RunInfo, text: str) -> None:
        self._display.line(text)

    def kdtool_stage_end(self, run: kdtool.RunInfo, seconds: float, reused: bool) -> None:
        self._reused += reused
        self._made += not reused
        self._position.end(run.stage_name, None if reused else seconds)
        self._display.end(run.stage_title, seconds, reused=reused)

    def kdtool_run_end(
        self, run: kdtool.RunInfo, status: Literal["done", "failed", "interrupted"], report: Path | None
    ) -> None:
        seconds = monotonic() - self._begun
        self._display.line(summary(run, status, made=self._made, reused=self._reused, seconds=seconds))
        self.kdtool_close()

    def kdtool_close(self) -> None:
        """Take the bars off the screen; safe to call twice."""
        if self._chosen is not None:
            self._chosen.close()
            self._chosen = None

    def _begin(self) -> None:
        self._made = self._reused = 0
        self._begun = monotonic()
        self._position = Position()

    @property
    def _display(self) -> Display:
        if self._chosen is None:
            from rich.console import Console

            console = Console(stderr=True)
            if console.is_terminal and not console.is_dumb_terminal:
                from kdtool_essentials.console.live import LiveDisplay

                self._chosen = LiveDisplay(console)
            else:
                self._chosen = PlainDisplay()
        return self._chosen


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
