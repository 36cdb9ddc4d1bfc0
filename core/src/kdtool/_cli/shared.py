"""Arguments, options and tables that several commands share.

Tables have columns in line and no rules, so that lines can be searched and cut.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, groupby, zip_longest

import click

from kdtool._text.terminal import Styled, fill, pieces_of, say, style, width_of
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


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Styled:
    """Return a table with colours, which `say` removes in pipes; cells are wrapped at words, only in a terminal.

    In a terminal that is too narrow for it, the first cell of each row is on a separate line, and if that is not enough,
    each cell is.
    """
    width = width_of(sys.stdout) or 10_000
    shown = [[escape(cell) for cell in row] for row in (head, *rows)]
    for apart in (0, 1):
        if widths := _fit([row[apart:] for row in shown], width - 2 * apart):
            lines = (_lines(row, widths, apart, bold=not index) for index, row in enumerate(shown))
            return Styled("\n".join(chain.from_iterable(lines)))
    return Styled("\n".join(map(partial(_card, head), rows)))


def _fit(rows: Sequence[Sequence[str]], width: int) -> list[int]:
    """Return the width of each column so that all fit; none if words or intervals would be divided."""
    columns = [*zip(*rows, strict=True)]
    least = [max((len(piece) for cell in column for piece in pieces_of(cell)), default=0) for column in columns]
    widths = [max(map(len, column)) for column in columns]
    while sum(widths) + 2 * len(widths) > width + 2:
        widest = max(range(len(widths)), key=lambda column: widths[column] - least[column])
        if widths[widest] <= least[widest]:
            return []
        widths[widest] -= 1
    return widths


def _lines(row: Sequence[str], widths: Sequence[int], apart: int, *, bold: bool) -> Iterator[str]:
    """Yield the lines of a row, whose first cell may stand `apart` from the others."""
    yield from (style(cell, bold=True) for cell in row[:apart] if cell)
    colours = [_COLOURS.get(cell.rpartition(" ")[2]) for cell in row[apart:]]
    for parts in zip_longest(*map(fill, row[apart:], widths), fillvalue=""):
        cells = (
            (style(part, fg=colour, bold=bold) if part and (bold or colour) else part) + " " * (width - len(part))
            for part, colour, width in zip(parts, colours, widths, strict=True)
        )
        yield "  " * apart + "  ".join(cells).rstrip()


def say_markdown(text: str) -> None:
    """Print Markdown: as it is in a file or pipe, its headings, names and tables as those of kdtool in a terminal."""
    if width_of(sys.stdout) is None:
        say(text)
        return
    for is_table, lines in groupby(text.replace("`", "").split("\n"), lambda line: line.startswith("|")):
        if is_table:
            head, _, *rows = (
                [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
            )
            say(table(head, rows))
        else:
            for line in lines:
                say(style(line.lstrip("# "), bold=True) if line.startswith("#") else line)


def _card(head: Sequence[str], row: Sequence[str]) -> str:
    """Return a row of a table as lines: its first cell, then the others after their headings."""
    first, *others = zip(head, row, strict=True)
    lines = (escape(f"  {name}: {cell}" if name else f"  {cell}") for name, cell in others if cell)
    return "\n".join([style(" ".join(filter(None, first)), bold=True), *lines])
