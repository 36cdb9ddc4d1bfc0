"""Arguments, options and tables that several commands share.

Tables have columns in line and no rules, so that lines can be searched and cut.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial

import click

from kdtool._text.terminal import escape_controls as escape
from kdtool._text.terminal import width_of


def read_pairs(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
    """Return the settings in `KEY=VALUE` arguments."""
    settings: dict[str, str] = {}
    for value in values:
        key, sign, text = value.partition("=")
        key = key.strip()
        if not sign or not key:
            raise click.BadParameter(f"{value!r} is not KEY=VALUE")
        if key in settings:
            raise click.BadParameter(f"{key!r} is given twice")
        settings[key] = text
    return settings


folder_path = click.Path(file_okay=False)
_SET = "Change a key of the recipe, such as train.steps=100; may be given more than once."
_STORE = "Folder for what runs share, or an address such as s3://bucket/prefix [default: the user's cache]."
recipe_argument = click.argument("recipe", type=click.Path(dir_okay=False))
set_option = click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", callback=read_pairs, help=_SET)
out_option = click.option("--out", type=folder_path, default="runs", show_default=True, help="Folder for runs.")
store_option = click.option("--store", type=folder_path, help=_STORE)
offline_option = click.option("--offline", is_flag=True, help="Use no network.")
no_sandbox_option = click.option(
    "--no-sandbox", is_flag=True, help="Leave out evaluators that run generated programs, and what compares with them."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


class ListByDefault(click.Group):
    """A group whose command is `list` unless another one is named."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, those of `list` if they name no command."""
        known = {*self.commands, *ctx.help_option_names}
        return super().parse_args(ctx, args if args and args[0] in known else ["list", *args])


_COLOURS = {"better": "green", "worse": "red", "done": "green", "damaged": "red"}
"""Colours of the cells that end with these words."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table with colours, which `click.echo` removes in pipes; cells are wrapped at words, only in a terminal.

    A terminal that is too narrow for it gets a line for each cell.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    width = width_of(sys.stdout) or 10_000
    columns = [[escape(cell) for cell in column] for column in zip(head, *rows, strict=True)]
    least = [max(len(word) for cell in column for word in cell.split() or [""]) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + 2 * len(widths) > width + 2:
        widest = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        if widths[widest] <= least[widest]:
            return "\n".join(map(partial(_card, head), rows))
        widths[widest] -= 1
    grid = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    for name, columns_wide in zip(head, widths, strict=True):
        grid.add_column(Text.assemble((escape(name), "bold")), width=columns_wide)
    for row in rows:
        grid.add_row(*(Text.assemble((escape(cell), _COLOURS.get(cell.rpartition(" ")[2], ""))) for cell in row))
    console = Console(width=width, force_terminal=True, color_system="standard", no_color=False)
    with console.capture() as captured:
        console.print(grid)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def _card(head: Sequence[str], row: Sequence[str]) -> str:
    """Return a row of a table as lines: its first cell, then the others after their headings."""
    first, *others = ((escape(name), escape(cell)) for name, cell in zip(head, row, strict=True))
    lines = (f"  {name}: {cell}" if name else f"  {cell}" for name, cell in others if cell)
    return "\n".join([click.style(" ".join(filter(None, first)), bold=True), *lines])
