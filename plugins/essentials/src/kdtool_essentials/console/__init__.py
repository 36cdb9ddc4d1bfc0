"""The tracker `console`: shows a run in the terminal, its position among its stages, and the time left.

A terminal gets live bars, logs and pipes get plain lines: one at the start of a stage, one at its end, and one every ten
seconds in between, without control characters. Both have the same sentences.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, Literal, Protocol

import kdtool

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

    def kdtool_measurement(self, run: kdtool.RunInfo, measurement: kdtool.Measurement) -> None:
        self._display.line(describe_measurement(measurement))

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


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Display(Protocol):
    """Shows stages by their titles, several at a time if need be, and the position of the run among its stages."""

    def place(self, position: str) -> None:
        """Take the position to show from now on; "" for none."""

    def start(self, title: str, total: int | None, unit: str) -> None:
        """Show that a stage begins."""

    def advance(self, title: str, done: int) -> None:
        """Show how much of a stage is done."""

    def step(self, title: str, report: kdtool.StepReport) -> None:
        """Show a training step."""

    def end(self, title: str, seconds: float, *, reused: bool) -> None:
        """Show that a stage ended."""

    def line(self, text: str) -> None:
        """Show a line of text."""

    def close(self) -> None:
        """Leave the terminal as it was."""


def harmless(text: str) -> str:
    """Return text without control characters: messages of components may quote untrusted text."""
    return _CONTROL.sub("?", text)


def duration(seconds: float) -> str:
    """Return a span of time in words."""
    if seconds < 99.5:
        return f"{seconds:.1f} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"


def roughly(seconds: float) -> str:
    """Return a span of time that is not known exactly."""
    if seconds < 99.5:
        return f"{max(1, round(seconds))} s"
    return f"{seconds / 60:.0f} min" if seconds < 5970 else f"{seconds / 3600:.1f} h"


def rate(per_second: float, unit: str) -> str:
    """Return a rate: "1.9k tokens/s", or seconds for one where that reads better."""
    if 0 < per_second < 0.5:
        return f"{1 / per_second:.1f} s each"
    shown = f"{per_second / 1000:.1f}k" if per_second >= 1000 else f"{per_second:.3g}"
    return f"{shown} {unit or 'items'}/s"


def describe_end(title: str, seconds: float, *, reused: bool) -> str:
    """Return a line for a finished stage."""
    return f"{title}: reused" if reused else f"{title}: done in {duration(seconds)}"


def describe_loss(report: kdtool.StepReport) -> str:
    """Return a step's loss, and the overlap of student and teacher if it was measured."""
    overlap = report.figures.get("overlap_ratio")
    return f"loss {report.loss:.4g}" + ("" if overlap is None else f", overlap {overlap:.0%}")


def describe_measurement(measurement: kdtool.Measurement) -> str:
    """Return a measurement with its interval, and its first text, such as a completion."""
    bounds = " (too few items for an interval)" if measurement.items else ""
    if measurement.low is not None and measurement.high is not None:
        bounds = f" ({measurement.low:.4g} to {measurement.high:.4g})"
    text = next((f"; {name!r}: {found!r}" for name, found in measurement.texts.items()), "")
    return f"{measurement.name} of {measurement.subject}: {measurement.value:.4g} {measurement.unit}{bounds}{text}"


def summary(run: kdtool.RunInfo, status: str, *, made: int, reused: int, seconds: float) -> str:
    """Return a line on the end of a run."""
    if status == "done":
        again = f", {reused} reused" if reused else ""
        work = f"{_stages(made)} in {duration(seconds)}{again}" if made else f"all of its {_stages(reused)} reused"
        return f"Run {run.name} is done: {work}"
    ended = "failed" if status == "failed" else "was interrupted"
    if not made + reused:
        return f"Run {run.name} {ended} before its first stage was complete."
    remedy = " Finished stages are kept." if status == "failed" else ""
    return f"Run {run.name} {ended} ({_stages(reused)} reused, {made or 'none'} completed).{remedy}"


def _stages(count: int) -> str:
    return f"{count} stage{'' if count == 1 else 's'}"


_EVERY_SECONDS = 10.0


@dataclass
class _Stage:
    total: int | None
    unit: str
    begun: float
    shown: float


class PlainDisplay:
    """Writes lines to standard error, flushed, so that a log follows the run."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._stages: dict[str, _Stage] = {}
        self._position = ""

    def place(self, position: str) -> None:
        """Take what lines about a stage end with."""
        self._position = f" (run: {position})" if position else ""

    def start(self, title: str, total: int | None, unit: str) -> None:
        """Remember the stage and say that it begins."""
        now = self._clock()
        self._stages[title] = _Stage(total, unit, now, now)
        count = f", {total} {unit}".rstrip() if total is not None else ""
        self.line(f"{title}: begins{count}{self._position}")

    def advance(self, title: str, done: int) -> None:
        """Write a stage's progress if a line is due."""
        if (stage := self._due(title)) is None:
            return
        seconds = self._clock() - stage.begun
        parts = [f"{done}/{stage.total} {stage.unit}" if stage.total else f"{done} {stage.unit}"]
        if done and seconds > 0:
            parts.append(rate(done / seconds, stage.unit))
            if stage.total:
                parts.append(f"{duration(seconds / done * max(0, stage.total - done))} left")
        self.line(f"{title}: {', '.join(parts)}{self._position}")

    def step(self, title: str, report: kdtool.StepReport) -> None:
        """Write training progress if a line is due."""
        if self._due(title) is None:
            return
        parts = [f"step {report.step}/{report.steps}", describe_loss(report)]
        if report.seconds > 0 and report.step:
            parts.append(rate(report.tokens / report.seconds, "tokens"))
            parts.append(f"{duration(report.seconds / report.step * (report.steps - report.step))} left")
        self.line(f"{title}: {', '.join(parts)}{self._position}")

    def end(self, title: str, seconds: float, *, reused: bool) -> None:
        """Write that a stage ended."""
        self._stages.pop(title, None)
        self.line(describe_end(title, seconds, reused=reused))

    def line(self, text: str) -> None:
        """Write a line; characters that the output's encoding lacks are replaced."""
        encoding = sys.stderr.encoding or "utf-8"
        print(harmless(text).encode(encoding, errors="replace").decode(encoding), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Forget the stages."""
        self._stages.clear()

    def _due(self, title: str) -> _Stage | None:
        stage, now = self._stages.get(title), self._clock()
        if stage is None or now - stage.shown < _EVERY_SECONDS:
            return None
        stage.shown = now
        return stage
