"""Arguments, options and tables that several commands share.

Tables have columns in line and no rules, so that lines can be searched and cut.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence

import click

from kdtool._text.terminal import escape_controls as escape


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
