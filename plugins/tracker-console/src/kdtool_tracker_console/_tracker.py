"""The tracker `console`: chooses how to show a run, and keeps count."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any, Literal

import kdtool

from kdtool_tracker_console._position import Position

if TYPE_CHECKING:
    from kdtool_tracker_console._words import Display

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
        from kdtool_tracker_console._words import describe_measurement

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
        from kdtool_tracker_console._words import summary

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
                from kdtool_tracker_console._live import LiveDisplay

                self._chosen = LiveDisplay(console)
            else:
                from kdtool_tracker_console._plain import PlainDisplay

                self._chosen = PlainDisplay()
        return self._chosen
