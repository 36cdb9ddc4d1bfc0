"""The tracker `console`: shows a run in the terminal, its position among its stages, and the time left.

A terminal gets live bars, logs and pipes get plain lines.
"""

from __future__ import annotations

import re
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import kdtool

from kdtool_essentials.console.sentences import describe_end, describe_loss, duration, harmless, rate, summary

if TYPE_CHECKING:
    from kdtool_essentials.console.live import LiveDisplay

__all__ = ["ConsoleTracker"]


class ConsoleTracker(kdtool.Tracker):
    """Shows stages, progress, loss and messages on standard error: bars in a terminal, plain lines elsewhere."""

    shows_messages = True

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self._chosen: LiveDisplay | PlainDisplay | None = None
        self._begin()

    def kdtool_run_start(self, run: kdtool.RunInfo, stages: Sequence[kdtool.StageRecord]) -> None:
        self._begin()
        self._position = Position(stages)
        self._display.line(f"Run {run.name} in {run.folder}")

    def kdtool_stage_start(self, run: kdtool.RunInfo, total: int | None, unit: str) -> None:
        self._position.start(run.stage_name, total)
        self._display.place(self._position.describe(run.stage_name))
        self._display.start(run.stage_title, total, unit)

    def kdtool_progress(self, run: kdtool.RunInfo, done: int, total: int | None) -> None:
        self._position.advance(run.stage_name, done, total)
        self._display.place(self._position.describe(run.stage_name))
        self._display.advance(run.stage_title, done, total, run.unit)

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
    def _display(self) -> LiveDisplay | PlainDisplay:
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

    def advance(self, name: str, done: int, total: int | None = None) -> None:
        """Record how many units of a running stage are done; `total` is for those whose start had none."""
        stage, now = self._running.get(name), self._clock()
        if stage is None:
            return
        stage.done, stage.total = done, total or stage.total
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


def roughly(seconds: float) -> str:
    """Return a span of time that is not known exactly."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def _like(name: str) -> str:
    """Return what a stage has in common with those that take about as long: its kind and its phase or evaluator."""
    kind, _, label = name.partition("/")
    if kind == "phases":
        return re.sub(r".*-seed\d+-", "phases/", label)
    return f"scores/{re.split(r'-(?=teacher|student|control)', label)[0]}" if kind == "scores" else kind


_EVERY_SECONDS = 10.0
_SILENT_SECONDS = 12.0


@dataclass
class _Stage:
    total: int | None
    unit: str
    begun: float
    shown: float
    first: tuple[int, float] | None = None
    """Units that were done at the first report of any, and its time: until then, models are loaded."""


class PlainDisplay:
    """Writes lines to standard error, flushed, so that a log follows the run.

    Each stage begins and ends with a line; in between it gets one every ten seconds, or every twelve if it reports nothing.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._position = ""
        self._written = clock()
        self._closed: threading.Event | None = None

    def place(self, position: str) -> None:
        """Take what lines about a stage end with."""
        self._position = f" (run: {position})" if position else ""

    def start(self, title: str, total: int | None, unit: str) -> None:
        """Remember the stage and say that it begins."""
        if self._closed is None:
            self._closed = threading.Event()
            threading.Thread(target=self._watch, args=[self._closed], daemon=True).start()
        now = self._clock()
        self._stages[title] = _Stage(total, unit, now, now)
        count = f", {total} {unit}".rstrip() if total is not None else ""
        self.line(f"{title}: begins{count}{self._position}")

    def advance(self, title: str, done: int, total: int | None, unit: str = "") -> None:
        """Write a stage's progress if a line is due."""
        if done and title in self._stages:
            known = self._stages[title]
            known.first = known.first or (done, self._clock())
        if (stage := self._due(title)) is None:
            return
        stage.total = total or stage.total
        unit = unit or stage.unit
        before, since = stage.first or (done, 0.0)
        parts = [f"{done}/{stage.total} {unit}" if stage.total else f"{done} {unit}"]
        if done > before and (seconds := self._clock() - since) > 0:
            parts.append(rate((done - before) / seconds, unit))
            if stage.total and done < stage.total:
                parts.append(f"{roughly(seconds / (done - before) * (stage.total - done))} left")
        self.line(f"{title}: {', '.join(parts)}{self._position}")

    def step(self, title: str, report: kdtool.StepReport) -> None:
        """Write training progress if a line is due."""
        if self._due(title) is None:
            return
        parts = [f"step {report.step}/{report.steps}", describe_loss(report)]
        if report.seconds > 0 and report.step:
            parts.append(rate(report.tokens / report.seconds, "tokens"))
            if report.step < report.steps:
                parts.append(f"{roughly(report.seconds / report.step * (report.steps - report.step))} left")
        self.line(f"{title}: {', '.join(parts)}{self._position}")

    def end(self, title: str, seconds: float, *, reused: bool) -> None:
        """Write that a stage ended."""
        self._stages.pop(title, None)
        self.line(describe_end(title, seconds, reused=reused))

    def line(self, text: str) -> None:
        """Write a line; characters that the output's encoding lacks are replaced."""
        self._written = self._clock()
        encoding = sys.stderr.encoding or "utf-8"
        print(harmless(text).encode(encoding, errors="replace").decode(encoding), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Forget the stages."""
        self._stages.clear()
        if self._closed is not None:
            self._closed.set()
            self._closed = None

    def _watch(self, closed: threading.Event) -> None:
        while not closed.wait(1.0):
            self.say_if_silent()

    def say_if_silent(self) -> None:
        """Write how long the stage that began last has been running if nothing was written for a while."""
        now = self._clock()
        for title, stage in list(self._stages.items())[-1:]:
            if now - self._written >= _SILENT_SECONDS:
                self.line(f"{title}: {duration(now - stage.begun)} so far{self._position}")

    def _due(self, title: str) -> _Stage | None:
        stage, now = self._stages.get(title), self._clock()
        if stage is None or now - stage.shown < _EVERY_SECONDS:
            return None
        stage.shown = now
        return stage
