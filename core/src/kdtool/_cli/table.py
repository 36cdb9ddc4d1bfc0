"""Tables as the command line prints them: columns in line and no rules, so that lines can be searched and cut."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

from kdtool._text.terminal import escape

_COLOURS = {"better": "green", "worse": "red", "done": "green", "damaged": "red"}
"""Colours of the cells that end with these words."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with colours, which `click.echo` removes in pipes; cells are wrapped only in a terminal."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 10_000
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name in head:
        grid.add_column(Text.assemble((escape(name), "bold")), overflow="fold")
    for row in rows:
        grid.add_row(*(Text.assemble((escape(cell), _COLOURS.get(cell.rpartition(" ")[2], ""))) for cell in row))
    console = Console(width=width, force_terminal=True, color_system="standard", no_color=False)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())
