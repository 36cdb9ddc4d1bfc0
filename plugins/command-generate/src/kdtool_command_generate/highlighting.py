"""Code on a terminal while it is generated: each line is coloured once it is complete."""

from __future__ import annotations

import re
from typing import IO

from pygments import highlight
from pygments.formatters import TerminalFormatter
from pygments.lexers import get_lexer_by_name
from rich.cells import cell_len

__all__ = ["CodeStream", "visible"]

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def visible(text: str) -> str:
    """Return a model's text without control characters, which could change the terminal."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


class CodeStream:
    """Writes code to a terminal: the line in progress plain, complete lines in colour.

    Args:
        out: the terminal.
        language: name of a pygments lexer.
        width: columns of the terminal; a longer line stays plain, and with 0 every line.
        before: code in front, such as the prompt, which is not shown; it decides what an open string or bracket is.
    """

    def __init__(self, out: IO[str], language: str, width: int, before: str = "") -> None:
        self._out, self._width = out, width
        self._lexer = get_lexer_by_name(language, stripnl=False, ensurenl=False)
        self._formatter = TerminalFormatter(bg="dark")  # the terminal's own colours
        self._whole = visible(before)
        self._column = 0  # cells of the line in progress that this stream wrote

    def write(self, text: str) -> None:
        """Show the next text."""
        first, *others = visible(text).split("\n")
        self._add(first)
        for line in others:
            self._end_line()
            self._add(line)
        self._out.flush()

    def _add(self, text: str) -> None:
        self._whole += text
        self._out.write(text)
        self._column += cell_len(text)

    def _end_line(self) -> None:
        """Write the line in progress again in colour, if it begins at the terminal's edge and did not wrap; end it."""
        lines = self._whole.split("\n")
        if self._column == cell_len(lines[-1]) and cell_len(lines[-1].expandtabs()) < self._width:
            coloured = highlight(self._whole, self._lexer, self._formatter)
            self._out.write("\r" + coloured.split("\n")[len(lines) - 1])
        self._whole += "\n"
        self._out.write("\n")
        self._column = 0
