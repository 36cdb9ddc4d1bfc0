"""Plain lines for logs and pipes: no control characters, a line at the start and end of a stage and every ten seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic

import kdtool

from kdtool_tracker_console._words import describe_end, describe_loss, duration, harmless, rate

__all__ = ["PlainDisplay"]

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
