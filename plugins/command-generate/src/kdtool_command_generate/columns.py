"""The same prompt for several models at once, side by side."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING

import kdtool

from kdtool_command_generate.answers import Answer, answer
from kdtool_command_generate.highlighting import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

__all__ = ["answer_side_by_side"]

_FRAMES_PER_SECOND = 8


class _Column:
    """One model's answer, made in a separate thread."""

    def __init__(
        self, name: str, runtime: kdtool.Runtime, request: kdtool.Request, stop: threading.Event, *, raw: bool
    ) -> None:
        self.name = name
        self.answer = Answer()
        self.problem = ""
        self._raw = raw
        self.thread = threading.Thread(target=self._work, args=(runtime, request, stop), daemon=True)

    def _work(self, runtime: kdtool.Runtime, request: kdtool.Request, stop: threading.Event) -> None:
        try:
            answer(runtime, request, lambda _: None, stop.is_set, self.answer, raw=self._raw)
        except Exception as error:
            self.problem = str(error) or type(error).__name__

    def render(self, language: str) -> RenderableType:
        from rich.panel import Panel
        from rich.syntax import Syntax
        from rich.text import Text

        code = Syntax(visible(self.answer.text), language, theme="ansi_dark", word_wrap=True)
        shown = Text(self.problem) if self.problem else code
        return Panel(shown, title=Text(self.name), subtitle=self.answer.figures(), title_align="left")


def answer_side_by_side(
    console: Console, runtimes: Mapping[str, kdtool.Runtime], request: kdtool.Request, language: str, *, raw: bool
) -> dict[str, Answer]:
    """Show the answers of all models while they are generated, and return them; Ctrl-C stops all of them.

    A model that fails shows its message, and has no answer; the others continue.

    Raises:
        UsageError: all of them failed.
    """
    from rich.live import Live

    stop = threading.Event()
    columns = [_Column(name, runtime, request, stop, raw=raw) for name, runtime in runtimes.items()]
    for column in columns:
        column.thread.start()
    with Live(console=console, refresh_per_second=_FRAMES_PER_SECOND, transient=True) as live:
        try:
            while any(column.thread.is_alive() for column in columns):
                live.update(_grid(columns, language))
                columns[0].thread.join(1 / _FRAMES_PER_SECOND)
                for column in columns[1:]:
                    column.thread.join(0.01)
        except KeyboardInterrupt as interrupt:
            stop.set()
            for column in columns:
                column.thread.join()
            if interrupt.args:  # a signal to end, and not Ctrl-C
                raise
    console.print(_grid(columns, language))
    answers = {column.name: column.answer for column in columns if not column.problem}
    if not answers:
        raise kdtool.UsageError("no model answered; the reasons stand above")
    return answers


def _grid(columns: list[_Column], language: str) -> RenderableType:
    from rich.table import Table

    grid = Table.grid(expand=True)
    for _ in columns:
        grid.add_column(ratio=1)
    grid.add_row(*(column.render(language) for column in columns))
    return grid
