"""Tables in Markdown, as the command line prints them and files keep them."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf


def number(value: float) -> str:
    """Return a value as tables show it: whole where it is large, else with four digits."""
    if isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:,.0f}" if 10_000 <= abs(value) < 1e15 else f"{value:.4g}"


def signed(difference: float, *, relative: bool) -> str:
    """Return a difference as tables and sentences show it: with its sign, a relative one in percent."""
    shown = 100 * difference if relative else difference
    if isinf(shown):
        return "+∞" if shown > 0 else "-∞"
    if relative:
        return f"{difference:+.1%}" if abs(shown) < 1e6 else f"{shown:+.3g}%"
    return f"{difference:+.3g}"


def aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown whose columns are aligned."""
    shown = [head, *([_one_line(cell) for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in shown) for column in range(len(head))]
    lines = ["| " + " | ".join(map(str.ljust, row, widths)) + " |" for row in shown]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _one_line(cell: str) -> str:
    """Return the first line, with what would end a cell escaped."""
    return cell.partition("\n")[0].replace("|", "\\|")
