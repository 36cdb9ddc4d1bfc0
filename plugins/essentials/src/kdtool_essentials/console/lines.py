"""Plain lines for logs and pipes, and the sentences that both displays show.

Lines have no control characters. A stage has one at its start, one at its end, and one every ten seconds in between.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import kdtool

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
