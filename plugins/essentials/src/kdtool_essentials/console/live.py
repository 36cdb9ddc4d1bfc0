"""Live bars in a terminal, by rich: the running stage below, finished stages and messages above."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any

import kdtool
from kdtool._text.terminal import wrap
from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column
from rich.text import Text

from kdtool_essentials.console.sentences import describe_end, describe_loss, harmless, rate


class LiveDisplay:
    """Draws one line for each running stage and removes it when the stage ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._tasks: dict[str, TaskID] = {}
        title = TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True))
        self._progress = _Bars(
            SpinnerColumn(),
            *[title] * (console.width >= _WIDE),
            BarColumn(bar_width=None),
            _Done(Column(no_wrap=True)),
            _Rate(Column(no_wrap=True)),
            TimeRemainingColumn(compact=True, elapsed_when_finished=True),
            TextColumn("{task.fields[detail]}", markup=False, table_column=Column(no_wrap=True)),
            console=console,
            transient=True,
            expand=True,
            speed_estimate_period=20,
            redirect_stdout=sys.stdout.isatty(),
        )

    def place(self, position: str) -> None:
        """Draw the position above the stages."""
        self._progress.position = harmless(position)

    def start(self, title: str, total: int | None, unit: str) -> None:
        """Draw a line for the stage."""
        self._progress.start()
        self._tasks[title] = self._progress.add_task(harmless(title), total=total, unit=unit, rate="", detail="")

    def advance(self, title: str, done: int, total: int | None, unit: str = "") -> None:
        """Move the bar."""
        if title in self._tasks:
            fields: dict[str, Any] = {"unit": harmless(unit)} if unit else {}
            self._progress.update(self._tasks[title], completed=done, total=total, **fields)

    def step(self, title: str, report: kdtool.StepReport) -> None:
        """Move the bar of a training stage and show the loss."""
        if title not in self._tasks:
            return
        speed = rate(report.tokens / report.seconds, "tokens") if report.seconds > 0 else ""
        self._progress.update(
            self._tasks[title], completed=report.step, total=report.steps, rate=speed, detail=describe_loss(report)
        )

    def end(self, title: str, seconds: float, *, reused: bool) -> None:
        """Remove the line and print a finished one above the bars."""
        if title in self._tasks:
            self._progress.remove_task(self._tasks.pop(title))
        mark, style = ("=", "dim") if reused else ("✓", "green")
        text = self._wrap(f"{mark} {describe_end(title, seconds, reused=reused)}")
        text.stylize(style, 0, None if reused else 1)
        self._console.print(text, soft_wrap=True)
        if not self._tasks:
            self._progress.stop()

    def line(self, text: str) -> None:
        """Show a line above the bars as plain text, wrapped at words: markup and control characters have no effect."""
        self._console.print(self._wrap(text), soft_wrap=True)

    def _wrap(self, text: str) -> Text:
        return Text(wrap(harmless(text), self._console.width))

    def close(self) -> None:
        """Stop drawing."""
        self._progress.stop()


_WIDE = 110
"""Columns of a terminal in which titles fit next to bars; in narrower ones they are above."""


class _Bars(Progress):
    """Bars below a line with the position of the run."""

    position = ""

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yield the line, if there is one, and the bars."""
        if self.position and self.tasks:
            yield Text(self.position, style="bold")
        if not self.tasks or self.console.width >= _WIDE:
            yield from super().get_renderables()
            return
        for task in self.tasks:
            yield Text(wrap(task.description, self.console.width))
            yield self.make_tasks_table([task])


class _Done(ProgressColumn):
    """Column with the number of finished and of all units."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        if not task.completed and task.total is None:
            return Text("")
        done, unit = f"{task.completed:,.0f}".replace(",", " "), task.fields["unit"]
        counted = done if task.total is None else f"{done}/{task.total:.0f}"
        return Text(f"{counted} {unit}" if task.total is None or "," in unit else counted)


class _Rate(ProgressColumn):
    """Column with the rate: reported by the stage, else units over the last seconds."""

    def render(self, task: Task) -> Text:
        """Draw the column."""
        measured = rate(task.speed, task.fields["unit"]) if task.speed else ""
        return Text(task.fields["rate"] or measured, style="dim")
